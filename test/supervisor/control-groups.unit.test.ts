import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isPopulated, killGroup, membersOfGroup, ranOutOfMemory, removeGroup } from "../../src/supervisor/cgroup.ts";
import { ControlGroups, ownGroup } from "../../src/supervisor/control-groups.ts";
import { Leftovers } from "../../src/supervisor/leftovers.ts";
import { ProcessTable } from "../../src/supervisor/process-table.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "steward-groups-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const limits = { memoryBytes: 64 * 1_048_576, cpuMillis: 250, processes: 12, openFiles: 100 };
const write = (path: string, text: string) => writeFileSync(join(directory, path), text);
const read = (path: string) => readFileSync(join(directory, path), "utf8");

describe("what is written into the group of an instance", () => {
  test("memory without swap, which kills the whole service; processor time per 100 ms; processes", () => {
    mkdirSync(join(directory, "i"));
    write("i/memory.swap.max", "max");
    write("i/memory.oom.group", "0");

    const group = new ControlGroups(directory, ["memory", "cpu", "pids"]).create("i", limits);

    expect(group).toBe(join(directory, "i"));
    expect(read("i/memory.max")).toBe("67108864");
    expect(read("i/memory.swap.max")).toMatch(/^0/);
    expect(read("i/memory.oom.group")).toBe("1");
    expect(read("i/cpu.max")).toBe("25000 100000");
    expect(read("i/pids.max")).toBe("12");
  });

  test("a kernel without swap accounting is not asked for it", () => {
    new ControlGroups(directory, ["memory"]).create("i", limits);

    expect(readdirSync(join(directory, "i"))).toEqual(["memory.max"]);
  });

  test("nothing for a controller that is not there, and nothing without limits", () => {
    new ControlGroups(directory, ["pids"]).create("i", limits);
    new ControlGroups(directory, ["memory", "cpu", "pids"]).create("j", { nice: 3 });

    expect(readdirSync(join(directory, "i"))).toEqual(["pids.max"]);
    expect(readdirSync(join(directory, "j"))).toEqual([]);
  });

  test("an instance counts as limited by its group only by what the group can count", () => {
    const groups = new ControlGroups(directory, ["pids"]);

    expect(groups.limits({ memoryBytes: 1, cpuMillis: 10 })).toBe(false);
    expect(groups.limits({ processes: 5 })).toBe(true);
  });
});

describe("what is read from a group", () => {
  test("its members with those of the groups below, zero for one that is out of sight", () => {
    mkdirSync(join(directory, "i/below"), { recursive: true });
    write("i/cgroup.procs", "4\n0\n");
    write("i/below/cgroup.procs", "7\n");

    expect(membersOfGroup(join(directory, "i"))).toEqual([4, 0, 7]);
  });

  test("whether it is populated, and whether memory ran out", () => {
    write("cgroup.events", "populated 1\nfrozen 0\n");
    write("memory.events", "low 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 1\n");

    expect([isPopulated(directory), ranOutOfMemory(directory)]).toEqual([true, true]);

    write("cgroup.events", "populated 0\nfrozen 0\n");
    write("memory.events", "low 0\nmax 9\noom 2\noom_kill 0\noom_group_kill 0\n");
    expect([isPopulated(directory), ranOutOfMemory(directory)]).toEqual([false, false]);
  });

  test("one that is gone is empty, and may be killed and removed again", () => {
    const gone = join(directory, "gone");

    killGroup(gone);
    removeGroup(gone);

    expect([membersOfGroup(gone), isPopulated(gone), ranOutOfMemory(gone)]).toEqual([[], false, false]);
  });
});

test("groups that nobody knows are removed, unless something lives in them", () => {
  for (const name of ["live", "empty", "populated"]) mkdirSync(join(directory, name));
  mkdirSync(join(directory, "empty/below"));
  const groups = new ControlGroups(directory, []);
  const populated = join(directory, "populated");
  writeFileSync(join(populated, "cgroup.events"), "populated 1\n");

  groups.removeStale(new Set(["live"]));

  expect(readdirSync(directory).sort()).toEqual(["live", "populated"]);
});

describe("the end of an instance whose group tells of a kill for memory", () => {
  const instance = () => ({
    instanceId: "i",
    runDir: directory,
    identity: { bootId: "another", pid: 1, startTime: "1" },
  });
  const ended = (record: string, killed: number) => {
    mkdirSync(join(directory, "cgroup"));
    write("stage", "go\n");
    write("exit", record);
    write("group", join(directory, "cgroup"));
    write("cgroup/memory.events", `oom_kill ${killed}\n`);
    return new Leftovers(new ProcessTable()).collectExit(instance());
  };

  test("is told as such when it died by SIGKILL", async () => {
    expect(await ended("signal 9\n", 1)).toMatchObject({ reason: "oom_killed", signal: "SIGKILL", code: undefined });
  });

  test("is its own when it exited, or by another signal, or nothing was killed for memory", async () => {
    expect(await ended("code 137\n", 1)).toMatchObject({ reason: "exited", code: 137 });
    rmSync(join(directory, "cgroup"), { recursive: true });
    expect(await ended("signal 15\n", 1)).toMatchObject({ reason: "signaled", signal: "SIGTERM" });
    rmSync(join(directory, "cgroup"), { recursive: true });
    expect(await ended("signal 9\n", 0)).toMatchObject({ reason: "signaled", signal: "SIGKILL" });
  });

  test("loses group and run directory when it is forgotten", async () => {
    await ended("code 0\n", 0);
    rmSync(join(directory, "cgroup/memory.events"));

    await new Leftovers(new ProcessTable()).forget(directory);

    expect(existsSync(directory)).toBe(false);
  });
});

describe("our own group in the file system", () => {
  const hybrid = `37 31 0:35 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
38 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`;

  test("is where a v2 hierarchy is mounted, beside v1 or alone", () => {
    expect(ownGroup(hybrid, "9:name=systemd:/x\n0::/\n")).toBe("/sys/fs/cgroup/unified/");
    expect(
      ownGroup(
        "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
        "0::/system.slice/steward.service\n",
      ),
    ).toBe("/sys/fs/cgroup/system.slice/steward.service");
  });

  test("is found below a mount of a part of the hierarchy, also at an odd path", () => {
    const part = "35 24 0:30 /docker/1 /mnt/a\\040b rw - cgroup2 cgroup2 rw\n";

    expect(ownGroup(part, "0::/docker/1/x\n")).toBe("/mnt/a b/x");
    expect(ownGroup(part, "0::/docker/10\n")).toBeUndefined();
  });

  test("is nowhere when it is read-only, outside of our namespace, or v1 alone", () => {
    expect(ownGroup(hybrid.replaceAll("rw,", "ro,"), "0::/\n")).toBeUndefined();
    expect(ownGroup(hybrid, "0::/../other\n")).toBeUndefined();
    expect(ownGroup(hybrid, "9:name=systemd:/x\n")).toBeUndefined();
  });
});
