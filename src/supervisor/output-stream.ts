import { type FileHandle, open } from "node:fs/promises";
import { growthOf } from "./file-growth.ts";
import { beginningOf, type OutputBeginning } from "./output-beginning.ts";
import { type Kept, readKept, wholeFile } from "./output-kept.ts";
import { type Sample, samplesAfter, windowSamples } from "./output-times.ts";

export type OutputStream = "stdout" | "stderr";

/** What one stream has to give next. */
export interface OutputPiece {
  readonly offset: bigint;
  /** Valid until it is taken. */
  readonly data: Buffer;
  /** In milliseconds since 1970. */
  readonly time: number;
}

export const chunkBytes = 64 * 1024;
const newline = 0x0a;

/** Reads one stream piece by piece: each of at most 64 KiB, written at one time, ending with a line where that is possible. */
export class StreamReader {
  readonly stream: OutputStream;
  readonly path: string;
  readonly #scratch = Buffer.allocUnsafe(chunkBytes);
  #file: FileHandle | undefined;
  #kept: Kept = wholeFile;
  #offset = 0n;
  /** What is read and not taken yet; begins at #offset. */
  #bytes = this.#scratch.subarray(0, 0);
  #piece: OutputPiece | undefined;
  #samples: readonly Sample[] = [];
  #sampledAt = 0;
  #seenSize: number | undefined;
  /** When nothing more was found; 0: there may be more. */
  #emptyAt = 0;

  constructor(stream: OutputStream, path: string) {
    this.stream = stream;
    this.path = path;
  }

  /** The offset after what was taken. */
  get offset(): bigint {
    return this.#offset;
  }

  /** What was found by the last look. */
  get piece(): OutputPiece | undefined {
    return this.#piece;
  }

  /** The size that the file had when nothing more was found. */
  get seenSize(): number | undefined {
    return this.#seenSize;
  }

  /** A file that is made later is new from its first byte on. */
  async open(beginning: OutputBeginning): Promise<void> {
    if (!(await this.#isOpen()) || this.#file === undefined) return;
    this.#offset = await beginningOf(this.path, this.#file, this.#kept, beginning);
  }

  /** Whether something written before that time may have come since the last look. */
  isOutdated(time: number): boolean {
    return this.#piece === undefined && this.#emptyAt - clockTickMs <= time;
  }

  /** Looks for the next piece, unless there is one. */
  async look(): Promise<void> {
    if (this.#piece !== undefined || !(await this.#isOpen())) return;
    if (!this.#bytes.includes(newline) && !(await this.#fill())) return;
    const { time, end } = await this.#segment();
    const length = Math.min(this.#bytes.length, Number(end - this.#offset));
    const lineEnd = this.#bytes.lastIndexOf(newline, length - 1) + 1;
    const data = this.#bytes.subarray(0, lineEnd > 0 ? lineEnd : length);
    this.#piece = { offset: this.#offset, data, time };
  }

  take(): void {
    const length = this.#piece?.data.length ?? 0;
    this.#bytes = this.#bytes.subarray(length);
    this.#offset += BigInt(length);
    this.#piece = undefined;
    this.#emptyAt = 0;
  }

  async close(): Promise<void> {
    await this.#file?.close();
    this.#file = undefined;
  }

  async #isOpen(): Promise<boolean> {
    if (this.#file !== undefined) return true;
    this.#seenSize = growthOf(this.path)?.size;
    this.#emptyAt = Date.now();
    this.#file = await open(this.path, "r").catch(unlessMissing);
    if (this.#file === undefined) return false;
    this.#kept = await readKept(this.path);
    this.#offset = this.#kept.head;
    return true;
  }

  /** False: nothing more for now. */
  async #fill(): Promise<boolean> {
    for (;;) {
      const { base, head } = this.#kept;
      if (this.#offset < head) this.#offset = head;
      this.#seenSize = growthOf(this.path)?.size;
      this.#emptyAt = Date.now();
      const bytesRead = await this.#file?.read(this.#scratch, 0, chunkBytes, Number(this.#offset - base));
      // Given back under our hands: what was read may be a hole.
      this.#kept = await readKept(this.path);
      if (this.#kept.base !== base || this.#kept.head > this.#offset) continue;
      this.#bytes = this.#scratch.subarray(0, bytesRead?.bytesRead ?? 0);
      return this.#bytes.length > 0;
    }
  }

  /** When the next bytes were written, and up to where that holds. What no sample tells of yet is as old as the file's last change. */
  async #segment(): Promise<Sample> {
    const sample = this.#sampled() ?? (await this.#sampleAgain());
    if (sample !== undefined) return sample;
    const time = Math.min(growthOf(this.path)?.time ?? Infinity, Date.now());
    return { time, end: this.#offset + BigInt(chunkBytes) };
  }

  async #sampleAgain(): Promise<Sample | undefined> {
    const isLast = this.#samples.length < windowSamples;
    if (isLast && Date.now() - this.#sampledAt < samplesPollMs) return undefined;
    this.#sampledAt = Date.now();
    this.#samples = (await samplesAfter(this.path, this.#offset)).samples;
    return this.#sampled();
  }

  #sampled(): Sample | undefined {
    return this.#samples.find(({ end }) => end > this.#offset);
  }
}

/** The times of files are those of the kernel's clock tick, 10 ms at most. */
const clockTickMs = 10;
const samplesPollMs = 100;

function unlessMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw error;
}
