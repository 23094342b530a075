import { readFile, rename, writeFile } from "node:fs/promises";

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

export async function readKept(path: string): Promise<Kept> {
  try {
    const [base, head] = (await readFile(recordOf(path), "utf8")).trim().split(" ");
    return base === undefined || head === undefined ? all : { base: BigInt(base), head: BigInt(head) };
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return all;
    throw error;
  }
}

export async function writeKept(path: string, { base, head }: Kept): Promise<void> {
  const draft = `${recordOf(path)}.new`;
  await writeFile(draft, `${base} ${head}\n`, { mode: 0o600 });
  await rename(draft, recordOf(path));
}

const all: Kept = { base: 0n, head: 0n };

function recordOf(path: string): string {
  return `${path}.kept`;
}
