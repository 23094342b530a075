import type { FileHandle } from "node:fs/promises";
import { growthOf } from "./file-growth.ts";
import type { Kept } from "./output-kept.ts";
import { samplesSince } from "./output-times.ts";

/** Where to begin to read a stream. */
export type OutputBeginning =
  /** At the first kept byte. */
  | { readonly kind: "oldest" }
  /** So many lines before the end; 0 is the end, and an unfinished line counts. */
  | { readonly kind: "tail"; readonly lines: number }
  /** With what was written at that time or later; what cannot be told apart from it comes along. */
  | { readonly kind: "since"; readonly time: Date }
  /** At an offset. One that is not kept any more means the first that is. */
  | { readonly kind: "offset"; readonly offset: bigint };

export async function beginningOf(
  path: string,
  file: FileHandle,
  kept: Kept,
  beginning: OutputBeginning,
): Promise<bigint> {
  const end = kept.base + BigInt((await file.stat()).size);
  switch (beginning.kind) {
    case "oldest":
      return kept.head;
    case "tail":
      return tailOffset(file, kept, end, beginning.lines);
    case "since":
      return laterOf(kept.head, await sinceOffset(path, end, beginning.time));
    case "offset":
      // Beyond the end: the file was put back to an older one.
      return beginning.offset > end ? end : laterOf(kept.head, beginning.offset);
  }
}

async function sinceOffset(path: string, end: bigint, time: Date): Promise<bigint> {
  const { samples, before } = await samplesSince(path, time.getTime());
  if (samples.length > 0) return before?.end ?? 0n;
  // What no sample tells of yet is as old as the file's last change.
  return (growthOf(path)?.time ?? 0) >= time.getTime() ? (before?.end ?? 0n) : end;
}

const blockBytes = 64 * 1024;
const newline = 0x0a;

async function tailOffset(file: FileHandle, kept: Kept, end: bigint, lines: number): Promise<bigint> {
  if (lines === 0) return end;
  const first = Number(kept.head - kept.base);
  const size = Number(end - kept.base);
  const scratch = Buffer.allocUnsafe(blockBytes);
  let missing = lines;
  for (let blockEnd = size; blockEnd > first; ) {
    const begin = Math.max(first, blockEnd - blockBytes);
    const { bytesRead } = await file.read(scratch, 0, blockEnd - begin, begin);
    const block = scratch.subarray(0, bytesRead);
    // The newline that ends the last line begins no other.
    let at = blockEnd === size && block.at(-1) === newline ? bytesRead - 1 : bytesRead;
    while (at > 0 && (at = block.lastIndexOf(newline, at - 1)) >= 0) {
      if (--missing === 0) return kept.base + BigInt(begin + at + 1);
    }
    blockEnd = begin;
  }
  return kept.head;
}

function laterOf(one: bigint, other: bigint): bigint {
  return one > other ? one : other;
}
