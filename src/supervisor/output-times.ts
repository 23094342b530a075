import { type FileHandle, open, rename, rm, writeFile } from "node:fs/promises";

/**
 * When output was written. Services write straight to their files, so while one grows its length is noted now and then in
 * a small file beside it: what lies between two samples was written between them, and counts as written at the later one.
 */
export interface Sample {
  /** In milliseconds since 1970; never before the sample before. */
  readonly time: number;
  /** The offset after the last byte that was there; always beyond the sample before. */
  readonly end: bigint;
}

export interface OutputTimesOptions {
  /** Above so many samples the older ones are thinned. Default 32768, which is half a megabyte. */
  readonly mostSamples?: number;
}

/** Keeps the samples of one output file. Not for two at once. */
export class OutputTimes {
  readonly #path: string;
  readonly #mostSamples: number;
  #count: number | undefined;
  #last: Sample = noSample;
  /** Came too soon after the last one: written when more comes later, or never, because until then the file itself tells its time. */
  #held: Sample | undefined;

  constructor(path: string, { mostSamples = 32_768 }: OutputTimesOptions = {}) {
    this.#path = timesOf(path);
    this.#mostSamples = mostSamples;
  }

  /** Notes how long the output is and when it was last written to. `head` is the first offset that is kept. */
  async note({ time, end }: Sample, head: bigint): Promise<void> {
    await this.#load();
    const held = this.#held;
    const { time: least, end: known } = held ?? this.#last;
    if (end <= known) return;
    const sample = { time: Math.max(time, least), end };
    if (held !== undefined && sample.time - this.#last.time > precisionMs) await this.#append(held, head);
    this.#held = sample;
    if (sample.time - this.#last.time >= leastGapMs) await this.#append(sample, head);
  }

  /** Writes what is held back; nothing is noted afterwards. */
  async close(): Promise<void> {
    if (this.#held !== undefined) await this.#append(this.#held, 0n);
  }

  async #load(): Promise<void> {
    if (this.#count !== undefined) return;
    const file = await open(this.#path, "r").catch(unlessMissing);
    try {
      const count = file === undefined ? 0 : await countSamples(file);
      if (file !== undefined && count > 0) [this.#last = noSample] = await readAt(file, count - 1, 1);
      this.#count = count;
    } finally {
      await file?.close();
    }
  }

  /** Each goes to its own place, so that one which was cut by a full disk is written over by the next. */
  async #append(sample: Sample, head: bigint): Promise<void> {
    if ((this.#count ?? 0) >= this.#mostSamples) await this.#thin(head);
    const place = this.#count ?? 0;
    const file = await open(this.#path, place === 0 ? "w" : "r+", 0o600);
    try {
      await file.write(encode([sample]), 0, recordBytes, place * recordBytes);
    } finally {
      await file.close();
    }
    this.#count = place + 1;
    this.#last = sample;
    this.#held = undefined;
  }

  async #thin(head: bigint): Promise<void> {
    const all: Sample[] = [];
    for (let from = 0, more = true; more; ) {
      const { samples } = await readSamples(this.#path, (_, index) => index < from);
      all.push(...samples);
      from += samples.length;
      more = samples.length > 0;
    }
    const rest = thinned(all, head);
    const draft = `${this.#path}.new`;
    try {
      await writeFile(draft, encode(rest), { mode: 0o600 });
      await rename(draft, this.#path);
    } catch (error) {
      await rm(draft, { force: true });
      throw error;
    }
    this.#count = rest.length;
  }
}

/** Without what is not kept any more, and of the older half without every other sample: the further back, the coarser. No time gets earlier. */
export function thinned(samples: readonly Sample[], head: bigint): Sample[] {
  const kept = samples.filter(({ end }) => end > head);
  const half = Math.floor(kept.length / 4) * 2;
  return kept.filter((_, index) => index >= half || index % 2 === 1);
}

/** The samples of an output file that end after an offset, the first ones of them. */
export function samplesAfter(path: string, offset: bigint): Promise<FoundSamples> {
  return readSamples(timesOf(path), ({ end }) => end <= offset);
}

/** The samples of an output file from a time on, the first ones of them. */
export function samplesSince(path: string, time: number): Promise<FoundSamples> {
  return readSamples(timesOf(path), (sample) => sample.time < time);
}

export interface FoundSamples {
  /** At most `windowSamples`; fewer: there are no more. */
  readonly samples: readonly Sample[];
  /** The one before them. */
  readonly before: Sample | undefined;
}

/** How many samples are read at once. */
export const windowSamples = 256;

/** How exact times are at best; a sample that is held back this long is written. */
const precisionMs = 250;
/** With a look every 100 ms: every second one. */
const leastGapMs = 150;
const recordBytes = 16;
const noSample: Sample = { time: 0, end: 0n };

/** Finds by halves the first sample that is not before what is asked for. A last one that is not whole yet does not count. */
async function readSamples(path: string, isBefore: (sample: Sample, index: number) => boolean): Promise<FoundSamples> {
  const file = await open(path, "r").catch(unlessMissing);
  if (file === undefined) return { samples: [], before: undefined };
  try {
    let [low, high] = [0, await countSamples(file)];
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      const [sample] = await readAt(file, middle, 1);
      if (sample !== undefined && isBefore(sample, middle)) low = middle + 1;
      else high = middle;
    }
    if (low === 0) return { samples: await readAt(file, 0, windowSamples), before: undefined };
    const [before, ...samples] = await readAt(file, low - 1, windowSamples + 1);
    return { samples, before };
  } finally {
    await file.close();
  }
}

async function countSamples(file: FileHandle): Promise<number> {
  return Math.floor((await file.stat()).size / recordBytes);
}

async function readAt(file: FileHandle, index: number, count: number): Promise<Sample[]> {
  const { buffer, bytesRead } = await file.read(
    Buffer.alloc(count * recordBytes),
    0,
    count * recordBytes,
    index * recordBytes,
  );
  return Array.from({ length: Math.floor(bytesRead / recordBytes) }, (_, each) => ({
    time: Number(buffer.readBigInt64LE(each * recordBytes)),
    end: buffer.readBigInt64LE(each * recordBytes + 8),
  }));
}

function encode(samples: readonly Sample[]): Buffer {
  const bytes = Buffer.alloc(samples.length * recordBytes);
  for (const [index, { time, end }] of samples.entries()) {
    bytes.writeBigInt64LE(BigInt(time), index * recordBytes);
    bytes.writeBigInt64LE(end, index * recordBytes + 8);
  }
  return bytes;
}

function unlessMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw error;
}

function timesOf(path: string): string {
  return `${path}.times`;
}
