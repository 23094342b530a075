import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { afterEach, beforeEach, expect, test } from "vitest";
import { commandPid } from "../../src/supervisor/instance-handle.ts";
import type { Launched } from "../../src/supervisor/launcher.ts";
import { Leftovers } from "../../src/supervisor/leftovers.ts";
import { identify, readStat } from "../../src/supervisor/process-identity.ts";
import { Processes } from "../../src/supervisor/process-table.ts";
import { runTool, signalProcess } from "../../src/supervisor/spawn.ts";
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

test("a command that forks without end while it is killed is ended with all its children", async () => {
  const storm = 'trap "" TERM; while :; do sleep 1000 & echo $!; done';
  const launched = await bench.run(["sh", "-c", storm]);
  await eventually(() => pidsPrinted(launched).length > 50);

  const result = await stop(launched, { graceMs: 0 });

  expect(result).toMatchObject({ stopped: true, exit: { signal: "SIGKILL" } });
  expect(pidsPrinted(launched).filter(isAlive)).toEqual([]);
});

test("one that forks into ever new sessions is ended, or it is told that it was not", async () => {
  const gate = await makeGate();
  const launched = await bench.run([fixture("hopper.sh"), gate]);
  writeFileSync(gate, "go\n");
  await eventually(() => bench.output(launched).split("\n").length > 5);

  const result = await stop(launched, { graceMs: 0, killWaitMs: 4_000 });
  const hops = bench.output(launched).length;

  if (result.stopped) {
    expect(await bench.leftovers.find(launched)).toEqual({ own: [], doubtful: [] });
    expect(bench.output(launched)).toHaveLength(hops);
  } else {
    expect(result.survivors).not.toEqual([]);
  }
});

test("a zombie that its parent does not reap is no member", async () => {
  const gate = await makeGate();
  const launched = await bench.run(["sh", "-c", 'read -r go <"$0" & echo $!; exec sleep 1000', gate]);
  const zombie = await eventually(() => pidsPrinted(launched)[0]);
  await eventually(async () => commandLine(commandPid(launched)).startsWith("sleep"));
  writeFileSync(gate, "go\n");
  await eventually(() => readStat(zombie)?.state === "Z");

  const { own } = await bench.leftovers.find(launched);

  expect(own.map(({ pid }) => pid)).not.toContain(zombie);
  expect(await stop(launched, { graceMs: 30_000 })).toMatchObject({ stopped: true, exit: { signal: "SIGTERM" } });
});

test("what outlived its shim and bears no mark is not signalled, and not called stopped", async () => {
  const launched = await bench.run(["sh", "-c", "echo $$; exec env -i sleep 1000"]);
  const pid = await eventually(() => pidsPrinted(launched)[0]);
  const command = await eventually(() => commandLine(pid).startsWith("sleep") && identify(pid));
  signalProcess(launched.identity, "SIGKILL");

  try {
    expect(await launched.exited).toMatchObject({ reason: "lost" });
    expect(await stop(launched, { graceMs: 0 })).toEqual({ stopped: false, survivors: [pid] });
    expect(isAlive(pid)).toBe(true);
  } finally {
    signalProcess(command, "SIGKILL");
  }
});

test("a process that no signal ends is never called stopped", async () => {
  const launched = await bench.run(["true"]);
  await launched.exited;
  const deaf = { pid: 4_194_305, state: "D", parent: 1, group: 1, session: 1, startTime: "1" };
  const table = { scan: () => Promise.resolve(new Processes([{ ...deaf, instanceId: launched.instanceId }])) };

  const result = await stopInstance(launched, new Leftovers(table), { graceMs: 0, killWaitMs: 50 });

  expect(result).toEqual({ stopped: false, survivors: [deaf.pid] });
});

const freezer = "/sys/fs/cgroup/freezer";
const canFreeze = process.getuid?.() === 0 && existsSync(`${freezer}/cgroup.procs`);
if (!canFreeze) process.stderr.write("No freezer of cgroup v1: a process that hears no signal is only imitated.\n");

test.skipIf(!canFreeze)("a frozen process is not called stopped until it is, and then it is", async () => {
  const launched = await bench.run(["sleep", "1000"]);
  const pid = await eventually(() => commandPid(launched));
  const ice = `${freezer}/${launched.instanceId}`;
  mkdirSync(ice);
  try {
    writeFileSync(`${ice}/cgroup.procs`, String(pid));
    writeFileSync(`${ice}/freezer.state`, "FROZEN");
    await eventually(() => readFileSync(`${ice}/freezer.state`, "utf8") === "FROZEN\n");

    expect(await stop(launched, { graceMs: 0, killWaitMs: 200 })).toEqual({ stopped: false, survivors: [pid] });
    writeFileSync(`${ice}/freezer.state`, "THAWED");

    expect(await stop(launched, { graceMs: 1_000 })).toMatchObject({ stopped: true });
  } finally {
    writeFileSync(`${ice}/freezer.state`, "THAWED");
    await eventually(() => {
      rmdirSync(ice);
      return true;
    });
  }
});

test("five hundred are stopped side by side, those that ignore the signal too", async () => {
  const many = await inBatches(500, (index) =>
    bench.run(index % 5 === 0 ? [fixture("stubborn.sh")] : ["sleep", "1000"]),
  );
  await Promise.all(many.map((launched) => eventually(() => commandPid(launched), { timeoutMs: 60_000 })));

  const start = performance.now();
  const results = await Promise.all(many.map((launched) => stop(launched, { graceMs: 2_000 })));

  expect(results.filter(({ stopped }) => !stopped)).toEqual([]);
  // One after the other it would be 200 s.
  expect(performance.now() - start).toBeLessThan(60_000);
}, 240_000);

/** A few at a time, as a node starts its services. */
async function inBatches<T>(count: number, run: (index: number) => Promise<T>): Promise<T[]> {
  const made: T[] = [];
  for (let index = 0; index < count; index += 25) {
    made.push(...(await Promise.all(Array.from({ length: 25 }, (_, offset) => run(index + offset)))));
  }
  return made;
}

async function makeGate(): Promise<string> {
  const gate = `${bench.directory}/gate`;
  await runTool("/usr/bin/mkfifo", [gate]);
  return gate;
}

function commandLine(pid: number | undefined): string {
  return pid === undefined ? "" : readFileSync(`/proc/${pid}/cmdline`, "utf8");
}

function pidsPrinted(launched: Launched): number[] {
  return bench.output(launched).split("\n").filter(Boolean).map(Number);
}

function isAlive(pid: number): boolean {
  const stat = readStat(pid);
  return stat !== undefined && stat.state !== "Z";
}
