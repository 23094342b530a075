import { spawnSync } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { expect, test } from "vitest";
import { fixture } from "./workbench.ts";

test("inherited descriptors are closed, except those that are kept", () => {
  const device = openSync("/dev/null", "r");
  // Node itself takes care of the lowest, up to the first gap after 15.
  const stdio = ["ignore", "pipe", "inherit", ...Array(17).fill("ignore"), device, device, device];

  const child = spawnSync(process.execPath, [fixture("close-descriptors.ts"), "21"], { stdio, encoding: "utf8" });
  closeSync(device);

  const { closed, again } = JSON.parse(child.stdout);
  expect(closed).toEqual(expect.arrayContaining([20, 22]));
  expect(closed).not.toContain(21);
  expect(again).toEqual([]);
});
