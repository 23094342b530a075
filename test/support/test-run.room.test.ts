import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { groupsBelow } from "../../src/supervisor/cgroup.ts";
import { currentGroup, openControlGroups } from "../../src/supervisor/control-groups.ts";
import { isRunning } from "../supervisor/state-directory.ts";
import { eventually } from "./eventually.ts";
import { runVariables, TestRun } from "./test-run.ts";

const serves = 'require("http").createServer().listen(0, () => console.log("ready"))';

function start(command: readonly [string, ...string[]], options: { env?: Record<string, string>; cwd?: string }) {
  const [file, ...args] = command;
  return spawn(file, args, { ...options, detached: true, stdio: ["ignore", "pipe", "ignore"] });
}

test("a run that leaves nothing behind ends well, and its directory is gone", async () => {
  const run = await TestRun.begin();
  const directory = tmpdir();

  await run.end([]);

  expect(existsSync(directory)).toBe(false);
  expect(tmpdir()).not.toBe(directory);
});

test("what is left is told, with its ports, and ended; what others run is left alone", async () => {
  const stranger = start(["sleep", "1000"], { env: {} });
  const run = await TestRun.begin();
  const place = mkdtempSync(join(tmpdir(), "steward-left-"));
  const server = start([process.execPath, "-e", serves], { env: runVariables() });
  await new Promise((resolve) => server.stdout?.once("data", resolve));
  const resident = start(["sleep", "1000"], { env: {}, cwd: place });
  const groups = await openControlGroups(place);

  const told = await run.end(["database test_left"]).then(
    () => "nothing",
    (error: unknown) => String(error),
  );

  expect(told).toMatch(/database test_left\n {2}process .*/);
  expect(told).toMatch(new RegExp(`process ${server.pid}: .*, which listens on \\d+`));
  expect(told).toMatch(new RegExp(`process ${resident.pid}: sleep 1000`));
  expect(told).toContain("directory steward-left-");
  expect(/control group .*steward-left-/.test(told)).toBe(groups !== undefined);
  expect(groupsBelow(currentGroup() ?? "/nowhere").filter((group) => group.includes("steward-left-"))).toEqual([]);
  await eventually(() => [server, resident].every(isGone));
  expect(isGone(stranger)).toBe(false);
  stranger.kill("SIGKILL");
});

const isGone = ({ pid }: ChildProcess) => !isRunning(pid ?? 0);
