import { afterEach, beforeEach, expect, test } from "vitest";
import { commandPid } from "../../src/supervisor/instance-handle.ts";
import type { Launched } from "../../src/supervisor/launcher.ts";
import { readStat } from "../../src/supervisor/process-identity.ts";
import { type StopOptions, stopInstance } from "../../src/supervisor/stop.ts";
import { eventually } from "../support/eventually.ts";
import { fixture, Workbench } from "./workbench.ts";

let bench: Workbench;
beforeEach(() => {
  bench = new Workbench();
});
afterEach(() => bench.clear());

const stop = (launched: Launched, options: StopOptions) => stopInstance(launched, bench.leftovers, options);

test("a command that obeys ends with the signal, at once", async () => {
  const launched = await bench.run(["sleep", "1000"]);
  await eventually(() => commandPid(launched));

  const result = await stop(launched, { graceMs: 30_000 });

  expect(result).toMatchObject({ stopped: true, exit: { reason: "signaled", signal: "SIGTERM" } });
});

test("a command may answer the signal with a code of its own", async () => {
  const launched = await bench.run(["sh", "-c", 'trap "exit 9" INT; echo ready; while :; do sleep 0.05; done']);
  await eventually(() => bench.output(launched) !== "");

  const result = await stop(launched, { signal: "SIGINT", graceMs: 30_000 });

  expect(result).toMatchObject({ stopped: true, exit: { reason: "exited", code: 9 } });
});

test("a command that ignores the signal is killed after the grace, and its record says so", async () => {
  const launched = await bench.run([fixture("stubborn.sh")]);
  await eventually(() => bench.output(launched) === "ready\n");

  const start = performance.now();
  const result = await stop(launched, { graceMs: 300 });

  expect(result).toMatchObject({ stopped: true, exit: { reason: "signaled", signal: "SIGKILL" } });
  expect(performance.now() - start).toBeGreaterThanOrEqual(299);
});

test("who is in a hurry ends the grace", async () => {
  const launched = await bench.run([fixture("stubborn.sh")]);
  await eventually(() => bench.output(launched) === "ready\n");
  const hurry = new AbortController();

  const result = stop(launched, { graceMs: 600_000, hurry: hurry.signal });
  hurry.abort();

  expect(await result).toMatchObject({ stopped: true, exit: { signal: "SIGKILL" } });
});

test("children behind another shell and those in a session of their own go along", async () => {
  const launched = await bench.run([fixture("family.sh")]);
  const pids = await eventually(() => {
    const printed = bench.output(launched).trim().split("\n").map(Number);
    return printed.length === 2 && printed;
  });
  expect(pids.map(isAlive)).toEqual([true, true]);

  const result = await stop(launched, { graceMs: 200 });

  expect(result).toMatchObject({ stopped: true, exit: { signal: "SIGTERM" } });
  expect(pids.map(isAlive)).toEqual([false, false]);
});

test("what a command left behind when it ended by itself is cleared by the same call", async () => {
  const launched = await bench.run(["sh", "-c", "setsid sleep 1000 & sleep 1001 & echo $!; exit 4"]);
  await launched.exited;
  const pid = Number(bench.output(launched));
  expect(isAlive(pid)).toBe(true);

  const result = await stop(launched, { graceMs: 1_000 });

  expect(result).toMatchObject({ stopped: true, exit: { reason: "exited", code: 4 } });
  expect(isAlive(pid)).toBe(false);
  expect(await bench.leftovers.find(launched)).toEqual({ own: [], doubtful: [] });
});

test("a stop in the very moment of the start meets the command all the same", async () => {
  const results = await Promise.all(
    Array.from({ length: 20 }, async () => stop(await bench.run(["sleep", "1000"]), { graceMs: 30_000 })),
  );

  expect(results.map(({ stopped }) => stopped)).toEqual(Array(20).fill(true));
});

test("a stop before the release ends the wait at the gate", async () => {
  const launched = await bench.launch(["sleep", "1000"]);

  const result = await stop(launched, { graceMs: 30_000 });

  expect(result).toMatchObject({ stopped: true });
  await expect(launched.release()).resolves.toBeUndefined();
});

test("a process that was suspended is woken to hear the signal", async () => {
  const launched = await bench.run(["sleep", "1000"]);
  const pid = await eventually(() => commandPid(launched));
  process.kill(pid, "SIGSTOP");

  expect(await stop(launched, { graceMs: 30_000 })).toMatchObject({ exit: { signal: "SIGTERM" } });
});

test("many are stopped in parallel", async () => {
  const many = await Promise.all(Array.from({ length: 100 }, () => bench.run([fixture("stubborn.sh")])));
  await Promise.all(many.map((launched) => eventually(() => bench.output(launched) !== "", { timeoutMs: 30_000 })));

  const start = performance.now();
  const results = await Promise.all(many.map((launched) => stop(launched, { graceMs: 500 })));

  expect(results.map(({ stopped }) => stopped)).toEqual(Array(100).fill(true));
  expect(performance.now() - start).toBeLessThan(10_000);
});

function isAlive(pid: number): boolean {
  const stat = readStat(pid);
  return stat !== undefined && stat.state !== "Z";
}
