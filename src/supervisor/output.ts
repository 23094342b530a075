import { type FileHandle, open } from "node:fs/promises";
import { watchGrowth } from "./file-growth.ts";
import { type Kept, readKept } from "./output-kept.ts";

export type OutputStream = "stdout" | "stderr";

export interface OutputRequest {
  readonly stdoutPath: string;
  readonly stderrPath: string;
  readonly streams: readonly OutputStream[];
  /** Begin this many lines before the end; 0 is the end. Undefined: at the first kept byte. */
  readonly tailLines?: number | undefined;
  /** Begin at an offset instead: the one after the last chunk that was seen. One that is not kept any more begins at the first that is. */
  readonly from?: Readonly<Partial<Record<OutputStream, bigint>>>;
  /** Go on with what is written later, until the signal aborts or the files are removed. */
  readonly follow: boolean;
  readonly signal: AbortSignal;
}

/** At most 64 KiB of one stream, ending with a line where that is possible. Any bytes: a service writes what it likes. */
export interface OutputChunk {
  readonly stream: OutputStream;
  /** Of the first byte of data; the next chunk of the stream is at offset + data.length, or later when output was given back. */
  readonly offset: bigint;
  readonly data: Buffer;
}

/** Reads what a service wrote, in order within each stream. Reads as fast as it is consumed and holds one chunk. */
export async function* readOutput(request: OutputRequest): AsyncGenerator<OutputChunk, void, undefined> {
  const { follow, signal } = request;
  const readers = request.streams.map((stream) => new StreamReader(stream, request));
  const alarm = new GrowthAlarm(follow ? readers.map(({ path }) => path) : [], signal);
  try {
    while (!signal.aborted) {
      let idle = true;
      for (const reader of readers) {
        const chunk = await reader.next();
        if (chunk === undefined) continue;
        idle = false;
        yield chunk;
      }
      if (!idle) continue;
      if (!follow || (await allRemoved(readers))) return;
      await alarm.rings();
    }
  } finally {
    alarm.end();
    await Promise.all(readers.map((reader) => reader.close()));
  }
}

const mostTailBytes = 16 * 1024;

/** The last lines of one stream, of 16 KiB at most; whatever is no text is replaced. */
export async function lastLines(
  paths: Pick<OutputRequest, "stdoutPath" | "stderrPath">,
  stream: OutputStream,
  count: number,
): Promise<string[]> {
  const { signal } = new AbortController();
  const chunks: Buffer[] = [];
  const request = { ...paths, streams: [stream], tailLines: count, follow: false, signal };
  for await (const { data } of readOutput(request)) {
    chunks.push(data);
    // A line may be of any length: of a long tail only the end is of use.
    while (chunks.length > 1 && chunks.slice(1).reduce((sum, chunk) => sum + chunk.length, 0) >= mostTailBytes)
      chunks.shift();
  }
  const text = Buffer.concat(chunks).subarray(-mostTailBytes).toString("utf8").trimEnd();
  return text === "" ? [] : text.split("\n").slice(-count);
}

const chunkBytes = 64 * 1024;
const newline = 0x0a;

class StreamReader {
  readonly path: string;
  readonly #stream: OutputStream;
  readonly #request: OutputRequest;
  readonly #scratch = Buffer.allocUnsafe(chunkBytes);
  #file: FileHandle | undefined;
  #wasMissing = false;
  #offset = 0n;

  constructor(stream: OutputStream, request: OutputRequest) {
    this.path = stream === "stdout" ? request.stdoutPath : request.stderrPath;
    this.#stream = stream;
    this.#request = request;
  }

  /** Undefined: nothing more for now. */
  async next(): Promise<OutputChunk | undefined> {
    const file = (this.#file ??= await this.#open());
    if (file === undefined) return undefined;
    for (;;) {
      const kept = await readKept(this.path);
      if (this.#offset < kept.head) this.#offset = kept.head;
      const offset = this.#offset;
      const { bytesRead } = await file.read(this.#scratch, 0, chunkBytes, Number(offset - kept.base));
      if (bytesRead === 0) return undefined;
      // What was given back reads as zeros: when it happened under our hands, read again from the new beginning.
      const data = this.#scratch.subarray(0, bytesRead);
      if (data.includes(0) && (await readKept(this.path)).head > offset) continue;
      return this.#take(offset, data);
    }
  }

  /** Whether the file was deleted since it was opened: nothing will ever be added that anybody could find. */
  async isRemoved(): Promise<boolean> {
    return this.#file !== undefined && (await this.#file.stat()).nlink === 0;
  }

  async close(): Promise<void> {
    await this.#file?.close();
    this.#file = undefined;
  }

  #take(offset: bigint, data: Buffer): OutputChunk {
    const lineEnd = data.lastIndexOf(newline) + 1;
    const chunk = Buffer.from(lineEnd > 0 ? data.subarray(0, lineEnd) : data);
    this.#offset = offset + BigInt(chunk.length);
    return { stream: this.#stream, offset, data: chunk };
  }

  async #open(): Promise<FileHandle | undefined> {
    const file = await openIfThere(this.path);
    if (file === undefined) {
      this.#wasMissing = true;
      return undefined;
    }
    const kept = await readKept(this.path);
    this.#offset = await this.#beginning(file, kept);
    return file;
  }

  async #beginning(file: FileHandle, kept: Kept): Promise<bigint> {
    const from = this.#request.from?.[this.#stream];
    if (from !== undefined) return from;
    const { tailLines } = this.#request;
    // A file that was made while we followed is new from its first byte on.
    return tailLines === undefined || this.#wasMissing ? kept.head : tailOffset(file, kept, tailLines, this.#scratch);
  }
}

/** The offset at which the last `lines` lines begin; an unfinished one counts. */
async function tailOffset(file: FileHandle, kept: Kept, lines: number, scratch: Buffer): Promise<bigint> {
  const first = Number(kept.head - kept.base);
  const { size } = await file.stat();
  if (lines === 0) return kept.base + BigInt(size);
  let missing = lines;
  for (let end = size; end > first; ) {
    const begin = Math.max(first, end - scratch.length);
    const { bytesRead } = await file.read(scratch, 0, end - begin, begin);
    const block = scratch.subarray(0, bytesRead);
    // The newline that ends the last line begins no other.
    let at = end === size && block.at(-1) === newline ? bytesRead - 1 : bytesRead;
    while (at > 0 && (at = block.lastIndexOf(newline, at - 1)) >= 0) {
      if (--missing === 0) return kept.base + BigInt(begin + at + 1);
    }
    end = begin;
  }
  return kept.head;
}

async function allRemoved(readers: readonly StreamReader[]): Promise<boolean> {
  const removed = await Promise.all(readers.map((reader) => reader.isRemoved()));
  return removed.length > 0 && removed.every(Boolean);
}

async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, "r");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}

/** Rings when one of the files grew since it was last asked, or when the signal aborts. */
class GrowthAlarm {
  readonly #ends: (() => void)[];
  readonly #signal: AbortSignal;
  #rung = false;
  #ring = () => {
    this.#rung = true;
    this.#wake?.();
  };
  #wake: (() => void) | undefined;

  constructor(paths: readonly string[], signal: AbortSignal) {
    this.#signal = signal;
    signal.addEventListener("abort", this.#ring, { once: true });
    this.#ends = paths.map((path) => watchGrowth(path, this.#ring));
  }

  async rings(): Promise<void> {
    if (!this.#rung) await new Promise<void>((resolve) => (this.#wake = resolve));
    this.#wake = undefined;
    this.#rung = false;
  }

  end(): void {
    this.#signal.removeEventListener("abort", this.#ring);
    for (const end of this.#ends) end();
  }
}
