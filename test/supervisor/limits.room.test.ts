import { readFileSync, writeFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ControlGroups } from "../../src/supervisor/control-groups.ts";
import { LimitRules } from "../../src/supervisor/limit-rules.ts";
import { maySet } from "../../src/supervisor/rlimits.ts";
import { runTool } from "../../src/supervisor/spawn.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { Plane, type PlaneOptions } from "./plane.ts";
import { StateDirectory } from "./state-directory.ts";
import { fixture, Workbench } from "./workbench.ts";

const isRoot = process.getuid?.() === 0;
if (!isRoot) process.stderr.write("Not root: limits that need rights are not tested.\n");

/** CAP_SYS_RESOURCE, which containers and some machines keep from root. */
const mayRaise =
  (BigInt(`0x${/^CapEff:\t(\w+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]}`) & (1n << 24n)) !== 0n;
if (!mayRaise) process.stderr.write("No right to raise limits: limits above our own are not tested.\n");

/** No file system has so many open; `fs.nr_open` is far below, also for root. */
const tooManyFiles = 2_000_000_000;

describe("a process is held by the kernel", () => {
  let bench: Workbench;
  beforeEach(() => {
    bench = new Workbench();
  });
  afterEach(() => bench.clear());

  const limitsOf = async (work: Parameters<Workbench["run"]>[1]) => {
    const launched = await bench.run(["sh", "-c", "cat /proc/self/limits; nice"], work);
    await launched.exited;
    return parseLimits(bench.output(launched));
  };

  test.each(["/bin/sh", "/bin/bash"])("to each of its limits, soft and hard, under %s", async (shell) => {
    const limits = { openFiles: 64, addressSpaceBytes: 1 << 30, coreBytes: 0, nice: 7 };

    expect(await limitsOf({ shell, limits })).toMatchObject({
      "Max open files": "64 64",
      "Max address space": "1073741824 1073741824",
      "Max core file size": "0 0",
      niceness: "7",
    });
  });

  test("by default to no core dump and otherwise to what Steward itself is held to", async () => {
    const ours = parseLimits(`${readFileSync("/proc/self/limits", "utf8")}0\n`);

    expect(await limitsOf({})).toEqual({ ...ours, "Max core file size": "0 0" });
  });

  test("to a core dump of the size that is allowed", async () => {
    expect(await limitsOf({ limits: { coreBytes: 4_097 } })).toMatchObject({ "Max core file size": "4097 4097" });
  });

  test.skipIf(!mayRaise)("to more than Steward itself where it has the right to raise that", async () => {
    const openFiles = hardOpenFiles() + 1;

    expect(await maySet("openFiles", openFiles)).toBe(true);
    expect(await limitsOf({ limits: { openFiles } })).toMatchObject({
      "Max open files": `${openFiles} ${openFiles}`,
    });
  });

  test.skipIf(!isRoot)("to a better priority than Steward's where it has the right to give one", async () => {
    expect(await maySet("nice", -3)).toBe(true);
    expect(await limitsOf({ limits: { nice: -3 } })).toMatchObject({ niceness: "-3" });
  });

  test("also where that ends it before its command: then the start has failed and says so", async () => {
    const launched = await bench.run(["true"], { limits: { addressSpaceBytes: 1_048_576 } });

    expect(await launched.exited).toMatchObject({
      reason: "spawn_failed",
      message: expect.stringMatching(/limits could not be set/),
    });
  });

  test.skipIf(!mayRaise)("and is not spared, as Steward may be, when memory runs out", async () => {
    writeFileSync("/proc/self/oom_score_adj", "-500");
    try {
      const launched = await bench.run(["cat", "/proc/self/oom_score_adj"]);
      await launched.exited;

      expect(bench.output(launched)).toBe("0\n");
    } finally {
      writeFileSync("/proc/self/oom_score_adj", "0");
    }
  });
});

describe("the rules of this host", () => {
  const refusing = new LimitRules({ groups: undefined, unenforced: "refuse" });

  test("refuse what only a control group could count, and name the field", async () => {
    await expect(
      refusing.apply({ memoryBytes: 1 << 30, cpuMillis: 500, openFiles: 64 }, 1_000, "at"),
    ).rejects.toMatchObject({
      code: "failed_precondition",
      reason: "LIMIT_NOT_ENFORCEABLE",
      violations: [
        { field: "at.memory_bytes", description: expect.stringMatching(/memory controller/) },
        { field: "at.cpu_millis", description: expect.stringMatching(/cpu controller/) },
      ],
    });
  });

  test("refuse to count the processes of root, which only a control group can", async () => {
    await expect(refusing.apply({ processes: 5 }, 0, "at")).rejects.toMatchObject({
      violations: [{ field: "at.processes" }],
    });
    expect(await refusing.apply({ processes: 5 }, 1_000, "at")).toEqual({ limits: { processes: 5 }, unenforced: "" });
  });

  test("accept what its control groups can count, and root's processes with it", async () => {
    const groups = new ControlGroups("/nowhere", ["memory", "cpu", "pids"]);
    const limits = { memoryBytes: 1 << 30, cpuMillis: 500, processes: 5 };

    expect(await new LimitRules({ groups, unenforced: "refuse" }).apply(limits, 0, "at")).toEqual({
      limits,
      unenforced: "",
    });
  });

  test("refuse more open files than the kernel allows anybody", async () => {
    await expect(refusing.apply({ openFiles: tooManyFiles }, 0, "at")).rejects.toMatchObject({
      violations: [{ field: "at.open_files", description: expect.stringContaining(String(tooManyFiles)) }],
    });
  });

  test("leave out and tell what has no effect, if that is the setting", async () => {
    const reporting = new LimitRules({ groups: undefined, unenforced: "report" });

    expect(await reporting.apply({ memoryBytes: 1 << 30, openFiles: 64 }, 0, "at")).toEqual({
      limits: { openFiles: 64 },
      unenforced: expect.stringMatching(/^memory_bytes needs the memory controller/),
    });
  });

  test.skipIf(!isRoot)("know that without rights nothing is raised: neither files nor priority", async () => {
    const wanted = [{ openFiles: hardOpenFiles() }, { openFiles: hardOpenFiles() + 1 }, { nice: 3 }, { nice: -1 }];
    const nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--"];
    const { output, errorOutput } = await runTool("/usr/bin/setpriv", [
      ...nobody,
      process.execPath,
      fixture("limit-rules.ts"),
      JSON.stringify(wanted),
    ]);

    expect(errorOutput).toBe("");
    expect(JSON.parse(output)).toEqual([
      `limits.open_files Steward may not set ${hardOpenFiles() + 1} on this host`,
      "limits.nice Steward may not set -1 on this host",
    ]);
  });
});

describe("a service with a limit that this host cannot enforce", () => {
  let database: TestDatabase;
  let state: StateDirectory;
  let plane: Plane | undefined;
  beforeEach(async () => {
    database = await createTestDatabase();
    state = new StateDirectory();
  });
  afterEach(async () => {
    await plane?.stop();
    await state.clear();
    await database.drop();
  });

  const start = async (options: Partial<PlaneOptions>) => {
    plane = await new Plane({ connection: database.connection, stateDir: state.path, ...options }).start();
    return plane;
  };

  test("is refused at registration and at an update, with the field in its place", async () => {
    const { create, update } = bound(await start({}));
    const refusal = {
      code: "failed_precondition",
      reason: "LIMIT_NOT_ENFORCEABLE",
      violations: [{ field: "service.spec.managed.limits.open_files" }],
    };

    await expect(create("s", ["sleep", "1000"], { limits: { openFiles: tooManyFiles } })).rejects.toMatchObject(
      refusal,
    );
    await create("s", ["sleep", "1000"]);
    await expect(update("s", ["sleep", "1000"], { limits: { openFiles: tooManyFiles } })).rejects.toMatchObject(
      refusal,
    );
  });

  test("runs without it by setting, and a condition says so until the limit is gone", async () => {
    const { create, update, until } = bound(await start({ unenforcedLimits: "report" }));

    await create("s", ["sleep", "1000"], { limits: { openFiles: tooManyFiles, coreBytes: 0 } });
    const { status } = await until("s", "running");
    expect(status.conditions).toMatchObject([
      { type: "limits_not_enforced", message: expect.stringContaining("open_files") },
    ]);

    await update("s", ["sleep", "1001"]);
    const after = await until("s", ({ status: now }) => now.state === "running" && now.conditions.length === 0);
    expect(after.status.instanceId).not.toBe(status.instanceId);
  });

  test("does not start under a server that refuses it, once another has accepted it", async () => {
    const lenient = await start({ unenforcedLimits: "report" });
    await lenient.create("s", ["sleep", "1000"], { limits: { openFiles: tooManyFiles } });
    await lenient.until("s", "running");
    await lenient.wish("stop", "s");
    await lenient.until("s", "stopped");
    await lenient.stop();

    const strict = await start({});
    await strict.wish("start", "s");

    const { status } = await strict.until("s", (service) => service.status.lastExit?.reason === "spawn_failed");
    expect(status.lastExit?.message).toMatch(/open_files/);
  });
});

function bound(plane: Plane) {
  return {
    create: plane.create.bind(plane),
    update: plane.update.bind(plane),
    until: plane.until.bind(plane),
  };
}

/** By name "soft hard", as proc(5) prints them; the last line is the niceness. */
function parseLimits(text: string): Record<string, string> {
  const lines = text.trim().split("\n").slice(1);
  const niceness = lines.pop() ?? "";
  const limits = lines.map((line) => /^(Max [a-z -]+?) {2,}(\S+) +(\S+)/.exec(line) ?? []);
  return { ...Object.fromEntries(limits.map(([, name, soft, hard]) => [name, `${soft} ${hard}`])), niceness };
}

function hardOpenFiles(): number {
  return Number(/^Max open files +\S+ +(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1]);
}
