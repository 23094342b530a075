import { readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";

/**
 * One group of control group v2, by its directory: the kernel's own list of everything that an instance started, which nothing but root can leave. Everything
 * here also holds for a group that is gone: it has no members.
 */

/** The pids of its members and of those in groups below it. 0 stands for a process outside of what we can see. */
export function membersOfGroup(group: string): number[] {
  const own = readLines(join(group, "cgroup.procs")).map(Number);
  return [...own, ...groupsBelow(group).flatMap(membersOfGroup)];
}

/** Moves a process and all that it will start into it. False: the process is gone. Takes the kernel some 10 ms. */
export async function enterGroup(group: string, pid: number): Promise<boolean> {
  try {
    await writeFile(join(group, "cgroup.procs"), String(pid), { flag: "r+" });
    return true;
  } catch (error) {
    if (isOneOf(error, ["ESRCH"])) return false;
    throw error;
  }
}

/** Whether anything in it or below it is alive. Zombies are not. */
export function isPopulated(group: string): boolean {
  return countOf(join(group, "cgroup.events"), "populated") > 0;
}

/** SIGKILL to all members at once, also to those that are being forked. Without effect on kernels before 5.14. */
export function killGroup(group: string): void {
  writeIfThere(join(group, "cgroup.kill"), "1");
}

/** Whether the kernel killed a member to get memory back. */
export function ranOutOfMemory(group: string): boolean {
  return countOf(join(group, "memory.events"), "oom_kill") > 0;
}

/** Removes an empty group with the empty groups below it; one that is not empty stays. */
export function removeGroup(group: string): void {
  for (const below of groupsBelow(group)) removeGroup(below);
  try {
    rmdirSync(group);
  } catch (error) {
    if (!isOneOf(error, ["ENOENT", "EBUSY", "ENOTEMPTY"])) throw error;
  }
}

export function groupsBelow(group: string): string[] {
  try {
    const entries = readdirSync(group, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => join(group, name));
  } catch (error) {
    return unlessGone(error, []);
  }
}

/** False: the kernel has no such file here. */
export function writeIfThere(path: string, text: string): boolean {
  try {
    writeFileSync(path, text, { flag: "r+" });
    return true;
  } catch (error) {
    return unlessGone(error, false);
  }
}

/** The number after a word at the beginning of a line; 0 without such a line or file. */
function countOf(path: string, key: string): number {
  const line = readLines(path).find((each) => each.startsWith(`${key} `));
  return line === undefined ? 0 : Number(line.slice(key.length));
}

function readLines(path: string): string[] {
  try {
    return readFileSync(path, "utf8").split("\n").filter(Boolean);
  } catch (error) {
    return unlessGone(error, []);
  }
}

/** ENODEV: it was removed while the file was open. EOPNOTSUPP: a service made it threaded; its processes count above it. */
function unlessGone<T>(error: unknown, otherwise: T): T {
  if (isOneOf(error, ["ENOENT", "ENODEV", "EOPNOTSUPP"])) return otherwise;
  throw error;
}

function isOneOf(error: unknown, codes: readonly string[]): boolean {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}
