import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import type { ProcessIdentity } from "../domain/status.ts";

/** A zombie is as dead as one that is gone: it runs nothing, although a signal to it still succeeds. */
export type ProcessState = "alive" | "zombie" | "gone";

/** What /proc/PID/stat tells of a process. Field numbers are those of proc(5). */
export interface ProcessStat {
  readonly pid: number;
  readonly state: string;
  readonly parent: number;
  readonly group: number;
  readonly session: number;
  /** Field 22 as text: clock ticks since boot. */
  readonly startTime: string;
}

/** The identity of the process that has this pid now; undefined when none has. */
export function identify(pid: number): ProcessIdentity | undefined {
  const stat = readStat(pid);
  return stat && { bootId: currentBootId(), pid, startTime: stat.startTime };
}

/** Whether the very process that was identified is still there; another that took over its pid counts as gone. */
export function stateOf(identity: ProcessIdentity): ProcessState {
  if (identity.bootId !== currentBootId()) return "gone";
  const stat = readStat(identity.pid);
  if (stat === undefined || stat.startTime !== identity.startTime) return "gone";
  return isDead(stat) ? "zombie" : "alive";
}

/** Changes with every boot of the kernel; read once. */
export function currentBootId(): string {
  bootId ??= readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  return bootId;
}

/** The pids of its children, oldest first; empty when it is gone. */
export function childrenOf(parent: ProcessIdentity): number[] {
  if (stateOf(parent) !== "alive") return [];
  try {
    const text = readFileSync(`/proc/${parent.pid}/task/${parent.pid}/children`, "utf8");
    return text.split(" ").filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

export function readStat(pid: number): ProcessStat | undefined {
  try {
    return parseStat(readLine(`/proc/${pid}/stat`));
  } catch {
    return undefined; // it ended before or while it was read
  }
}

/** Longer than the 52 numbers and the name can be. */
const line = Buffer.alloc(2048);

/** In one read: a look at all processes is hundreds of them. */
function readLine(path: string): string {
  const file = openSync(path, "r");
  try {
    return line.toString("latin1", 0, readSync(file, line, 0, line.length, 0));
  } finally {
    closeSync(file);
  }
}

/** The name in field 2 may hold spaces and parentheses, so the fields are counted from the last one. */
export function parseStat(text: string): ProcessStat {
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const [state = "", parent, group, session] = fields;
  return {
    pid: Number.parseInt(text, 10),
    state,
    parent: Number(parent),
    group: Number(group),
    session: Number(session),
    startTime: fields[19] ?? "",
  };
}

export function isDead(stat: ProcessStat): boolean {
  return stat.state === "Z" || stat.state === "X";
}

let bootId: string | undefined;
