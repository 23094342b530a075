import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openControlGroups } from "../../src/supervisor/control-groups.ts";
import { eventually } from "../support/eventually.ts";

/** The state directory of a test's own control plane; `clear` kills whatever was started from it. */
export class StateDirectory {
  readonly path = mkdtempSync(join(tmpdir(), "steward-state-"));

  /** The pids of all living shims that were started from it. */
  shims(): number[] {
    return shimsOf(this.path);
  }

  /** Resolves once nothing of that name is in it any more. */
  async untilGone(name: string): Promise<void> {
    await eventually(() => !existsSync(join(this.path, name)));
  }

  async clear(unmount?: () => void): Promise<void> {
    await endInstances(this.path);
    unmount?.();
    rmSync(this.path, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** Kills every process of every instance that was started from a state directory; resolves when all are gone, with their control groups. */
export async function endInstances(stateDir: string): Promise<void> {
  const members = new Set(processes().filter((pid) => read(`/proc/${pid}/cmdline`).includes(`\0${stateDir}\0`)));
  for (const pid of processes()) if (members.has(sessionOf(pid)) || writesTo(pid, stateDir)) members.add(pid);
  for (const pid of members) kill(pid);
  await eventually(() => ![...members].some(isRunning));
  // A server that was killed leaves its parent group to the next.
  const groups = existsSync(stateDir) ? await openControlGroups(stateDir) : undefined;
  groups?.close();
}

/** The pids of all living shims that hold an instance of a state directory: each holds its FIFO. */
export function shimsOf(stateDir: string): number[] {
  const root = join(stateDir, "run");
  return processes().filter((pid) => {
    const held = linkOf(pid, 3);
    return held.startsWith(root) && held.includes("/alive");
  });
}

/** Whether a process runs: one that was not reaped yet is gone, although a signal to it still succeeds. */
export function isRunning(pid: number): boolean {
  const state = fieldsOf(pid)[0];
  return state !== undefined && state !== "Z" && state !== "X";
}

function processes(): number[] {
  return readdirSync("/proc").map(Number).filter(Number.isInteger).filter(isRunning);
}

/** Whether its output is kept there: so it is of an instance, also when it has left the session. */
function writesTo(pid: number, stateDir: string): boolean {
  return linkOf(pid, 1).startsWith(join(stateDir, "logs"));
}

/** What a descriptor of a process leads to; empty if there is none. */
function linkOf(pid: number, descriptor: number): string {
  try {
    return readlinkSync(`/proc/${pid}/fd/${descriptor}`);
  } catch {
    return "";
  }
}

function sessionOf(pid: number): number {
  return Number(fieldsOf(pid)[3]);
}

/** Those after the name in parentheses. */
function fieldsOf(pid: number): string[] {
  const text = read(`/proc/${pid}/stat`);
  return text === "" ? [] : text.slice(text.lastIndexOf(")") + 2).split(" ");
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // gone already
  }
}
