import { readFileSync } from "node:fs";
import { getPriority } from "node:os";
import type { Limits } from "../domain/limits.ts";
import { runTool } from "./spawn.ts";

/** The limits that the kernel holds each process to by itself, without control groups. */
export type ProcessLimit = (typeof resources)[number][0] | "nice";

const resources = [
  ["openFiles", "nofile", "Max open files"],
  ["processes", "nproc", "Max processes"],
  ["coreBytes", "core", "Max core file size"],
  ["addressSpaceBytes", "as", "Max address space"],
] as const satisfies readonly (readonly [keyof Limits, string, string])[];

/** What to put before a command so that its processes are held to these limits; it execs in place. Empty: there is nothing to hold it to. */
export function holdTo(limits: Limits): string[] {
  const options = resources.flatMap(([name, option]) => {
    const value = limits[name];
    return value === undefined ? [] : [`--${option}=${value}`];
  });
  return [...beNice(limits.nice), ...(options.length === 0 ? [] : ["/usr/bin/prlimit", ...options, "--"])];
}

/**
 * Whether we have the right to set this. Lowering needs none; raising a hard limit or a priority needs one that is more than a capability (a user namespace may
 * take it away, `fs.nr_open` bounds it), so it is tried on a process of its own.
 */
export async function maySet(name: ProcessLimit, value: number): Promise<boolean> {
  if (name === "nice") return value >= getPriority() || (await reaches(value));
  const [, , line] = resources.find(([each]) => each === name) ?? [];
  return value <= hardLimit(line ?? "") || (await runs(holdTo({ [name]: value })));
}

const nice = "/usr/bin/nice";

function beNice(wanted: number | undefined): string[] {
  return wanted === undefined ? [] : [nice, "-n", String(wanted - getPriority()), "--"];
}

/** nice goes on without the right it lacks, so it is asked how far it came. */
async function reaches(wanted: number): Promise<boolean> {
  const [tool = nice, ...args] = beNice(wanted);
  return (await runTool(tool, [...args, nice])).output === String(wanted);
}

async function runs([tool = "", ...args]: readonly string[]): Promise<boolean> {
  return (await runTool(tool, [...args, "/bin/true"])).status === 0;
}

/** Ours, as proc(5) prints it: soft, then hard. */
function hardLimit(line: string): number {
  const [, hard] = new RegExp(`^${line} +\\S+ +(\\S+)`, "m").exec(readFileSync("/proc/self/limits", "utf8")) ?? [];
  return hard === "unlimited" ? Number.POSITIVE_INFINITY : Number(hard ?? 0);
}
