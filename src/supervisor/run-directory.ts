import { readFileSync, statSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { constants } from "node:os";
import { join } from "node:path";
import type { InstanceExit } from "../domain/status.ts";

/** How an instance ended; whether that was asked for, its runner knows. */
export type ProcessExit = Omit<InstanceExit, "requested">;

/** What an instance keeps in its run directory. All but the FIFO begin as blanks and are written over. Only Steward's user may look into it, so a service of another user forges nothing. */
export const runFiles = {
  /** A FIFO that the shim holds open for as long as it lives. */
  alive: "alive",
  /** How the command ended, on its first line. */
  exit: "exit",
  /** How far the second stage came. */
  stage: "stage",
  /** The directory of its control group; not there: it has none. */
  group: "group",
  /** What the shim's own shell had to say. */
  notes: "notes",
  /** What the command writes to tell that it is ready. */
  notify: "notify",
} as const;

export async function createRunDirectory(runDir: string): Promise<void> {
  await mkdir(runDir, { recursive: true, mode: 0o700 });
}

/** Notes which control group the instance is given, for the next server too: it may have its groups elsewhere, or none. */
export async function recordGroup(runDir: string, group: string): Promise<void> {
  await writeFile(join(runDir, runFiles.group), group);
}

/** The control group of an instance; undefined: it has none. */
export function groupOf(runDir: string): string | undefined {
  return readIfThere(join(runDir, runFiles.group)) || undefined;
}

/** Removes all that an ended instance left here; absent is fine. Its output lies elsewhere and stays. */
export async function removeRunDirectory(runDir: string): Promise<void> {
  await rm(runDir, { recursive: true, force: true });
}

/** Whether the shim wrote down an exit. */
export function hasExitRecord(runDir: string): boolean {
  return readRecord(runDir) !== undefined;
}

/** Whether the command's own turn has come: past this point something of the service ran. */
export function hasBegun(runDir: string): boolean {
  return readStage(runDir).begun;
}

/**
 * The recorded exit of an instance whose shim has ended. Undefined: there is no record although the command was begun,
 * so nobody knows.
 */
export function readExit(runDir: string, now: () => Date = () => new Date()): ProcessExit | undefined {
  const record = readRecord(runDir);
  if (record?.kind === "signal") {
    return { reason: "signaled", code: undefined, signal: signalName(record.number), message: "", time: record.time };
  }
  const failure = spawnFailure(readStage(runDir), record?.number);
  const time = record?.time ?? now();
  if (failure !== undefined) return spawnFailed(withNotes(failure, record, runDir), time);
  if (record === undefined) return undefined;
  return { reason: "exited", code: record.number, signal: undefined, message: "", time };
}

export function spawnFailed(message: string, time: Date): ProcessExit {
  return { reason: "spawn_failed", code: undefined, signal: undefined, message, time };
}

interface ExitRecord {
  readonly kind: string;
  readonly number: number;
  readonly time: Date;
}

function readRecord(runDir: string): ExitRecord | undefined {
  const path = join(runDir, runFiles.exit);
  const [, kind, number] = /^(code|signal) (\d+)\n/.exec(readIfThere(path) ?? "") ?? [];
  return kind === undefined ? undefined : { kind, number: Number(number), time: statSync(path).mtime };
}

interface Stage {
  readonly begun: boolean;
  readonly failedAt: string | undefined;
  readonly status: number;
}

function readStage(runDir: string): Stage {
  const [first, second] = (readIfThere(join(runDir, runFiles.stage)) ?? "").split("\n");
  const [failedAt, status] = (second ?? "").split(" ");
  return { begun: first === "go", failedAt: failedAt === "" ? undefined : failedAt, status: Number(status) };
}

function spawnFailure({ begun, failedAt, status: stageStatus }: Stage, status: number | undefined): string | undefined {
  if (!begun) return neverBegun(status);
  if (failedAt === "cwd") return "the user may not enter the working directory, or it does not exist";
  if (failedAt === "environment") return "the system's shell cannot set one of the environment's variables";
  if (failedAt !== "exec") return undefined;
  return stageStatus === 126
    ? "the command may not be executed"
    : "the command, or the interpreter it names, does not exist";
}

/** An empty or cut script ends the second stage with 0 or 2; any other status is that of the switch of users. */
function neverBegun(status: number | undefined): string {
  if (status === undefined) return "the process that holds the instance ended before the command began";
  return status === 0 || status === 2
    ? "it was given up before it was let go"
    : `its limits could not be set, or the switch to its user failed, with status ${status}`;
}

function withNotes(failure: string, record: ExitRecord | undefined, runDir: string): string {
  if (record !== undefined) return failure;
  const notes = (readIfThere(join(runDir, runFiles.notes)) ?? "").trim();
  return notes === "" ? failure : `${failure}: ${notes}`;
}

/** Undefined: not written yet, or never. Without a detour: these are a few bytes, and a thousand may be read in a row. */
function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}

// Some numbers have two names; the first is the usual one.
const signalNames = new Map(
  Object.entries(constants.signals)
    .map(([name, number]): [number, string] => [number, name])
    .reverse(),
);

function signalName(number: number): string {
  return signalNames.get(number) ?? `SIGRTMIN+${number - 34}`;
}
