import { existsSync, readFileSync, statSync } from "node:fs";
import { appendFile, open, writeFile } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";

/**
 * Which part of an output file is still there, in offsets that only grow: an offset is a cursor for ever, whatever was
 * given back before it.
 */
export interface Kept {
  /** The offset of the file's first byte: 0, unless its file system forced us to begin it anew. */
  readonly base: bigint;
  /** The offset of the first byte that is kept. */
  readonly head: bigint;
}

/** All of an output file that has no record yet. */
export const wholeFile: Kept = { base: 0n, head: 0n };

export async function readKept(path: string): Promise<Kept> {
  for (;;) {
    const record = readRecord(recordOf(path));
    if (record === undefined) return wholeFile;
    const [base, head, baseAgain, headAgain] = record.trim().split(" ");
    // Its two halves differ when it is being written just now.
    if (base === baseAgain && head === headAgain && base !== undefined && head !== undefined)
      return { base: BigInt(base), head: BigInt(head) };
    await setImmediate();
  }
}

/** Writes over the record in its place: once it is there, that needs no space on a disk that may be full. */
export async function writeKept(path: string, { base, head }: Kept): Promise<void> {
  const file = await open(recordOf(path), "r+");
  try {
    await file.write(recordText({ base, head }), 0);
  } finally {
    await file.close();
  }
}

/** Makes an output file and its record, as far as they are absent. Looks without a detour: a server that takes over has thousands. */
export async function makeOutputFile(path: string): Promise<void> {
  if (!hasContent(recordOf(path))) await writeFile(recordOf(path), recordText(wholeFile), { mode: 0o600 });
  if (!existsSync(path)) await appendFile(path, "", { mode: 0o600 });
}

/** A disk that was full leaves an empty file. */
function hasContent(path: string): boolean {
  return (statSync(path, { throwIfNoEntry: false })?.size ?? 0) > 0;
}

/** Undefined: there is none, or a full disk has left it empty. */
function readRecord(path: string): string | undefined {
  try {
    return readFileSync(path, "latin1") || undefined;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}

function recordText({ base, head }: Kept): string {
  return `${base} ${head} ${base} ${head}`.padEnd(recordBytes - 1).concat("\n");
}

const recordBytes = 96;

function recordOf(path: string): string {
  return `${path}.kept`;
}
