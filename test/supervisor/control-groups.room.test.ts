import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { Service } from "../../src/domain/service.ts";
import { groupsBelow, membersOfGroup, removeGroup } from "../../src/supervisor/cgroup.ts";
import { openControlGroups } from "../../src/supervisor/control-groups.ts";
import { commandPid } from "../../src/supervisor/instance-handle.ts";
import type { Launched } from "../../src/supervisor/launcher.ts";
import { Leftovers } from "../../src/supervisor/leftovers.ts";
import { ProcessTable } from "../../src/supervisor/process-table.ts";
import { runTool, signalProcess } from "../../src/supervisor/spawn.ts";
import { stopInstance } from "../../src/supervisor/stop.ts";
import { eventually } from "../support/eventually.ts";
import { openPlane } from "./own-plane.ts";
import { isRunning, StateDirectory } from "./state-directory.ts";
import { fixture, Workbench } from "./workbench.ts";

const trial = new StateDirectory();
const groups = await openControlGroups(trial.path);
if (groups === undefined) {
  process.stderr.write("No writable cgroup v2: nothing about control groups is tested.\n");
  // Where everything is skipped nothing runs at the end either.
  await trial.clear();
}
const lacking = (["memory", "cpu", "pids"] as const).filter((each) => groups?.has(each) !== true);
if (groups !== undefined && lacking.length > 0)
  process.stderr.write(`No ${lacking.join(", ")} controller in cgroup v2: their limits are not tested.\n`);

let parent: string;
let bench: Workbench;
beforeAll(() => {
  if (groups === undefined) return;
  const group = groups.create("probe", {});
  parent = join(group, "..");
  removeGroup(group);
});
afterAll(async () => {
  if (groups !== undefined) removeGroup(parent);
  await trial.clear();
});
beforeEach(() => {
  bench = new Workbench();
});
afterEach(() => bench.clear());

const groupOf = ({ instanceId }: Launched) => join(parent, instanceId);
const settled = (launched: Launched) =>
  eventually(async () => {
    const pid = commandPid(launched);
    return pid !== undefined && membersOfGroup(groupOf(launched)).includes(pid) && pid;
  });

/** Runs a script once its process is in its group, which happens beside its start. */
async function runSettled(script: string): Promise<{ launched: Launched; pid: number }> {
  const gate = await makeGate();
  const launched = await bench.run(["sh", "-c", `read -r go <"$0"; ${script}`, gate], { groups });
  const pid = await settled(launched);
  writeFileSync(gate, "go\n");
  return { launched, pid };
}

async function makeGate(): Promise<string> {
  const gate = join(bench.directory, "gate");
  await runTool("/usr/bin/mkfifo", [gate]);
  return gate;
}

const memberRunning = (launched: Launched, command: string) =>
  eventually(() => membersOfGroup(groupOf(launched)).find((pid) => commandLine(pid) === command));

describe.skipIf(groups === undefined)("with a control group for each instance", () => {
  const run = (argv: readonly string[], limits = {}) => bench.run(argv, { groups, limits });

  test("the command is in it with all that it starts, and its shim is not", async () => {
    const { launched, pid } = await runSettled("sleep 1000 & echo $!; exec sleep 1001");
    const child = await eventually(() => Number(bench.output(launched)) || undefined);

    expect(new Set(membersOfGroup(groupOf(launched)))).toEqual(new Set([pid, child]));
  });

  test("the parent bears the state directory's name, so that two servers keep apart", async () => {
    const other = new StateDirectory();
    try {
      const theirs = await openControlGroups(other.path);
      const group = theirs?.create("i", {}) ?? "";

      expect(join(group, "..")).not.toBe(parent);
      expect(await openControlGroups(`${other.path}/../${other.path.split("/").at(-1)}`)).toEqual(theirs);
      removeGroup(join(group, ".."));
    } finally {
      await other.clear();
    }
  });

  test("who left session and environment is found by it and ends with the rest", async () => {
    const { launched, pid } = await runSettled("setsid env -i sleep 1000 & wait");
    const away = await memberRunning(launched, "sleep 1000");

    const result = await stopInstance(launched, bench.leftovers, { graceMs: 200 });

    expect(result).toMatchObject({ stopped: true, exit: { signal: "SIGTERM" } });
    expect([pid, away].map(isRunning)).toEqual([false, false]);
    expect(membersOfGroup(groupOf(launched))).toEqual([]);
  });

  test("one that forks into ever new sessions does not outrun the kill", async () => {
    const gate = await makeGate();
    const launched = await run([fixture("hopper.sh"), gate]);
    await settled(launched);
    writeFileSync(gate, "go\n");
    await eventually(() => bench.output(launched).split("\n").length > 20);

    const result = await stopInstance(launched, bench.leftovers, { graceMs: 100 });

    expect(result).toMatchObject({ stopped: true });
    expect(membersOfGroup(groupOf(launched))).toEqual([]);
  });

  test("without its shim even what bears no mark is known to be its own", async () => {
    const launched = await run(["env", "-i", "sleep", "1000"]);
    const pid = await settled(launched);
    await memberRunning(launched, "sleep 1000");

    signalProcess(launched.identity, "SIGKILL");

    expect(await launched.exited).toMatchObject({ reason: "lost" });
    expect(isRunning(pid)).toBe(false);
    expect(await stopInstance(launched, bench.leftovers, { graceMs: 0 })).toMatchObject({ stopped: true });
  });

  test("a server without groups of its own still finds the group of an instance that it took over", async () => {
    const { launched } = await runSettled("setsid env -i sleep 1000 & wait");
    const away = await memberRunning(launched, "sleep 1000");

    const { own } = await new Leftovers(new ProcessTable()).find(launched);

    expect(own.map(({ pid }) => pid)).toContain(away);
  });

  test("an instance that was given up leaves no group once it is forgotten, nor one that a service divided", async () => {
    const abandoned = await bench.launch(["true"], { groups });
    await abandoned.abandon();
    const divided = await run(["sleep", "1000"]);
    await settled(divided);
    groups?.create(join(divided.instanceId, "below", "deeper"), {});
    expect(existsSync(groupOf(abandoned))).toBe(true);

    await stopInstance(divided, bench.leftovers, { graceMs: 1_000 });
    for (const { runDir } of [abandoned, divided]) await bench.leftovers.forget(runDir);

    expect([abandoned, divided].map(groupOf).map(existsSync)).toEqual([false, false]);
  });

  test("fifty at once are each in their own, and fifty ends leave nothing", async () => {
    const many = await Promise.all(Array.from({ length: 50 }, () => run(["sleep", "1000"])));
    const pids = await Promise.all(many.map(settled));
    expect(many.map((launched) => membersOfGroup(groupOf(launched)))).toEqual(pids.map((pid) => [pid]));

    await Promise.all(many.map((launched) => stopInstance(launched, bench.leftovers, { graceMs: 10_000 })));
    await Promise.all(many.map(({ runDir }) => bench.leftovers.forget(runDir)));

    expect(readdirSync(parent, { withFileTypes: true }).filter((entry) => entry.isDirectory())).toEqual([]);
  });

  test("a service has one group at a time, and none after its stop", async () => {
    const { plane, clear } = await openPlane({ groups });
    try {
      const names = () => groupsBelow(parent).map((group) => basename(group));
      await plane.create("s", ["sleep", "1000"]);
      const first = (await plane.until("s", "running")).status;
      await eventually(() => membersOfGroup(join(parent, first.instanceId ?? "")).includes(first.pid ?? 0));

      process.kill(first.pid ?? 0, "SIGKILL");
      const isNext = ({ status }: Service) => status.state === "running" && status.instanceId !== first.instanceId;
      const second = (await plane.until("s", isNext)).status;
      expect(second.lastExit).toMatchObject({ reason: "signaled", signal: "SIGKILL" });
      await eventually(() => names().join() === second.instanceId);

      await plane.wish("stop", "s");
      await plane.until("s", "stopped");
      await eventually(() => names().length === 0);
    } finally {
      await clear();
    }
  });

  test.skipIf(groups?.has("memory") !== true)(
    "too much memory is told as such, and ends the whole service",
    async () => {
      const eat = "let all = []; for (;;) all.push(Buffer.alloc(8 << 20, 1));";
      const launched = await run([process.execPath, "-e", eat], { memoryBytes: 128 << 20 });

      expect(await launched.exited).toMatchObject({ reason: "oom_killed", signal: "SIGKILL" });
    },
  );

  test.skipIf(groups?.has("pids") !== true)("a service has no more processes than it may", async () => {
    const launched = await run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait"], { processes: 4 });
    await eventually(() => /fork/i.test(bench.output(launched, "stderr")));

    expect(membersOfGroup(groupOf(launched)).length).toBeLessThanOrEqual(4);
  });

  test.skipIf(groups?.has("cpu") !== true)("a service has no more of the processor than it may", async () => {
    const launched = await run(["sh", "-c", "while :; do :; done"], { cpuMillis: 100 });

    await eventually(() => /nr_throttled [1-9]/.test(readFileSync(join(groupOf(launched), "cpu.stat"), "utf8")));
  });
});

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
  } catch {
    return "";
  }
}
