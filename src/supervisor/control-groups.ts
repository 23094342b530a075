import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import type { Limits } from "../domain/limits.ts";
import { groupsBelow, isPopulated, membersOfGroup, removeGroup, writeIfThere } from "./cgroup.ts";
import { readStat } from "./process-identity.ts";
import { runTool } from "./spawn.ts";

/** What control groups can hold a service to. */
export type Controller = "memory" | "cpu" | "pids";

const controllers = ["memory", "cpu", "pids"] as const satisfies readonly Controller[];

/** The control groups of this state directory's instances: one for each, below a parent of ours. */
export class ControlGroups {
  readonly #parent: string;
  /** Those that work here. */
  readonly controllers: readonly Controller[];

  constructor(parent: string, enabled: readonly Controller[]) {
    this.#parent = parent;
    this.controllers = enabled;
  }

  has(controller: Controller): boolean {
    return this.controllers.includes(controller);
  }

  /** Whether a group holds its members to one of these. */
  limits({ memoryBytes, cpuMillis, processes }: Limits): boolean {
    return (
      (memoryBytes !== undefined && this.has("memory")) ||
      (cpuMillis !== undefined && this.has("cpu")) ||
      (processes !== undefined && this.has("pids"))
    );
  }

  /** Makes the group of an instance and says in it what its members may use. Returns its directory. */
  create(instanceId: string, limits: Limits): string {
    const group = join(this.#parent, instanceId);
    mkdirSync(group, { recursive: true });
    try {
      this.#hold(group, limits);
    } catch (error) {
      removeGroup(group);
      throw error;
    }
    return group;
  }

  #hold(group: string, { memoryBytes, cpuMillis, processes }: Limits): void {
    if (memoryBytes !== undefined && this.has("memory")) {
      writeFileSync(join(group, "memory.max"), String(memoryBytes));
      // Swapping would let it have more than it may, slowly. Half a service is worse than none, so the kernel ends it whole.
      writeIfThere(join(group, "memory.swap.max"), "0");
      writeIfThere(join(group, "memory.oom.group"), "1");
    }
    if (cpuMillis !== undefined && this.has("cpu"))
      writeFileSync(join(group, "cpu.max"), `${(cpuMillis * cpuPeriod) / 1_000} ${cpuPeriod}`);
    if (processes !== undefined && this.has("pids")) writeFileSync(join(group, "pids.max"), String(processes));
  }

  /** Removes what is empty; the groups of processes that run on stay, with their parent. */
  close(): void {
    removeGroup(this.#parent);
  }

  /** Removes the groups of instances that nobody knows any more, if nothing lives in them. */
  removeStale(live: ReadonlySet<string>): void {
    for (const group of groupsBelow(this.#parent)) {
      if (!live.has(basename(group)) && !isPopulated(group)) removeGroup(group);
    }
  }
}

/** In microseconds, as in most of the world. */
const cpuPeriod = 100_000;

/**
 * Finds a control group v2 in which we may make groups and put processes, and enables what controllers it gives. Undefined: there is none, or not for us.
 * Call it before anything else is started: where processes and controllers may not be in one group, we move out of ours into one below it.
 */
export async function openControlGroups(stateDir: string): Promise<ControlGroups | undefined> {
  const current = currentGroup();
  if (current === undefined) return undefined;
  const base = basename(current) === serverGroup ? dirname(current) : current;
  const parent = join(base, nameFor(realpathSync(stateDir)));
  try {
    mkdirSync(parent, { recursive: true });
    if (!(await admits(join(parent, "trial")))) return undefined;
    const given = controllers.filter((each) => enable(base, each, join(base, serverGroup)));
    return new ControlGroups(
      parent,
      given.filter((each) => enable(parent, each)),
    );
  } catch (error) {
    if (isRefusal(error)) return undefined;
    throw error;
  }
}

/** Where we are, or move to, so that the group above it may have controllers. A service manager that starts us there spares us the move. */
const serverGroup = "steward-server";

/** The directory of the control group v2 that we are in. */
export function currentGroup(): string | undefined {
  return ownGroup(readFileSync("/proc/self/mountinfo", "utf8"), readFileSync("/proc/self/cgroup", "utf8"));
}

/** For people the path, as far as a name goes; for certainty its hash. */
function nameFor(stateDir: string): string {
  const hash = createHash("sha256").update(stateDir).digest("hex").slice(0, 8);
  return `steward${stateDir.replaceAll("/", "-").slice(-180)}-${hash}`;
}

/** Where our own control group v2 is to be found in the file system; undefined: nowhere, or it is read-only. */
export function ownGroup(mountinfo: string, cgroup: string): string | undefined {
  const path = /^0::(\/.*)$/m.exec(cgroup)?.[1];
  if (path === undefined || path.startsWith("/..")) return undefined;
  for (const line of mountinfo.split("\n")) {
    const [before = "", after = ""] = line.split(" - ");
    const [, , , root = "", mountPoint = "", options = ""] = before.split(" ").map(unescape);
    if (!after.startsWith("cgroup2 ") || !options.split(",").includes("rw")) continue;
    const inside = root === "/" ? path : below(path, root);
    if (inside !== undefined) return join(mountPoint, inside);
  }
  return undefined;
}

function below(path: string, root: string): string | undefined {
  if (path === root) return "/";
  return path.startsWith(`${root}/`) ? path.slice(root.length) : undefined;
}

/** Space, tab, newline and backslash are written as octal numbers there. */
function unescape(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCodePoint(Number.parseInt(octal, 8)));
}

/** Whether a process of ours may go into a group that we made, the way an instance will. */
async function admits(group: string): Promise<boolean> {
  mkdirSync(group, { recursive: true });
  const { status } = await runTool("/bin/sh", ["-c", 'echo 0 >"$1/cgroup.procs"', "steward", group]);
  removeGroup(group);
  return status === 0;
}

/** Lets the groups below have a controller. With `refuge` we move there if that is in the way and nobody else is in the group. */
function enable(group: string, controller: Controller, refuge?: string): boolean {
  if (!wordsIn(join(group, "cgroup.controllers")).includes(controller)) return false;
  const control = join(group, "cgroup.subtree_control");
  if (wordsIn(control).includes(controller)) return true;
  try {
    writeFileSync(control, `+${controller}`);
    return true;
  } catch (error) {
    if (!isRefusal(error)) throw error;
  }
  return refuge !== undefined && moveOut(group, refuge) && enable(group, controller);
}

function wordsIn(path: string): string[] {
  return readFileSync(path, "utf8").split(/\s+/).filter(Boolean);
}

function moveOut(group: string, refuge: string): boolean {
  const here = wordsIn(join(group, "cgroup.procs")).map(Number);
  if (here.length === 0 || !here.every(isOurs)) return false;
  mkdirSync(refuge, { recursive: true });
  for (const pid of here) writeFileSync(join(refuge, "cgroup.procs"), String(pid));
  return membersOfGroup(refuge).includes(process.pid);
}

function isOurs(pid: number): boolean {
  return pid === process.pid || readStat(pid)?.parent === process.pid;
}

/** ENOTSUP and EBUSY: processes are in the way. */
function isRefusal(error: unknown): boolean {
  const codes = ["EACCES", "EPERM", "EROFS", "EBUSY", "ENOTSUP", "EOPNOTSUPP", "EINVAL", "ENOENT", "ENOSPC", "EAGAIN"];
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}
