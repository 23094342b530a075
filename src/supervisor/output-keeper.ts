import { stat, truncate } from "node:fs/promises";
import { type Growth, growthOf, watchGrowth } from "./file-growth.ts";
import { type Kept, makeOutputFile, readKept, writeKept } from "./output-kept.ts";
import { OutputTimes } from "./output-times.ts";
import { runTool } from "./spawn.ts";

export interface OutputKeeperOptions {
  /** How much of each file is kept on disk; default 50 MiB. */
  readonly keepBytes?: number;
  /** Told once when the file system cannot give back the beginning of a file, so that files begin anew instead. */
  readonly onBeginAnew: (path: string, reason: string) => void;
  /** Told of a file that could not be bounded this time; it is tried again. */
  readonly onFailure: (path: string, error: unknown) => void;
}

/**
 * Bounds what services write on disk. They append to plain files, without us; of a file that has grown beyond what is kept
 * the beginning is given back to the file system. No byte moves and no offset changes: the file only looks long. On disk
 * it holds `keepBytes` and an eighth more, plus what is written in the tenth of a second until we look again. On the same
 * looks it notes when output was written.
 */
export class OutputKeeper {
  readonly #keepBytes: number;
  readonly #options: OutputKeeperOptions;
  readonly #files = new Map<string, KeptFile>();
  #canPunch = true;

  constructor(options: OutputKeeperOptions) {
    this.#keepBytes = options.keepBytes ?? 50 * 1024 * 1024;
    this.#options = options;
  }

  /** Makes the file when absent and bounds it from now on; twice is fine. Its directory exists. */
  async keep(path: string): Promise<void> {
    if (this.#files.has(path)) return;
    const file = new KeptFile(path, (growth, times) => this.#tend(path, growth, times), this.#options.onFailure);
    this.#files.set(path, file);
    await file.start().catch((error: unknown) => {
      this.#files.delete(path);
      throw error;
    });
  }

  /** Lets go of a file that nobody writes any more; resolves when it is not touched any more. */
  async release(path: string): Promise<void> {
    const file = this.#files.get(path);
    this.#files.delete(path);
    await file?.stop();
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#files.keys()].map((path) => this.release(path)));
  }

  async #tend(path: string, { size, time }: Growth, times: OutputTimes): Promise<Growth | undefined> {
    if (size === 0) return undefined;
    const kept = await readKept(path);
    // Bounded first: on a full disk a sample may have to wait for the space.
    const wasBounded = await this.#bound(path, size, kept);
    await times.note({ time, end: kept.base + BigInt(size) }, kept.head);
    // That took a while: what writes so much may have written as much again.
    return wasBounded ? growthOf(path) : undefined;
  }

  async #bound(path: string, size: number, { base, head }: Kept): Promise<boolean> {
    const first = Number(head - base);
    if (size - first <= this.#keepBytes + this.#keepBytes / 8) return false;
    const newFirst = Math.floor((size - this.#keepBytes) / blockBytes) * blockBytes;
    if (this.#canPunch) {
      // Told before it is done: a reader then never takes the emptied part for output.
      await writeKept(path, { base, head: base + BigInt(newFirst) });
      await this.#punch(path, first, newFirst);
    }
    if (!this.#canPunch) await beginAnew(path, base);
    return true;
  }

  async #punch(path: string, from: number, to: number): Promise<void> {
    const start = Math.floor(from / blockBytes) * blockBytes;
    const range = [`--offset=${start}`, `--length=${to - start}`];
    const { status, errorOutput } = await runTool("/usr/bin/fallocate", ["--punch-hole", ...range, path]);
    if (status === 0) return;
    if (!/support/i.test(errorOutput)) throw new Error(`the beginning of ${path} cannot be given back: ${errorOutput}`);
    this.#canPunch = false;
    this.#options.onBeginAnew(path, errorOutput);
  }
}

const blockBytes = 4096;

/** Whoever appends goes on at the new beginning. What came between the look and the cut is lost, not miscounted. */
async function beginAnew(path: string, base: bigint): Promise<void> {
  const { size } = await stat(path);
  await truncate(path, 0);
  await writeKept(path, { base: base + BigInt(size), head: base + BigInt(size) });
}

const tryAgainMs = 1_000;

/** One file: at most one action at a time, and one more when it grew meanwhile. */
class KeptFile {
  readonly #path: string;
  readonly #tend: (growth: Growth, times: OutputTimes) => Promise<Growth | undefined>;
  readonly #onFailure: OutputKeeperOptions["onFailure"];
  readonly #times: OutputTimes;
  #end: () => void = () => undefined;
  #retry: NodeJS.Timeout | undefined;
  #growth: Growth | undefined;
  #work: Promise<void> | undefined;

  constructor(
    path: string,
    tend: (growth: Growth, times: OutputTimes) => Promise<Growth | undefined>,
    onFailure: OutputKeeperOptions["onFailure"],
  ) {
    this.#path = path;
    this.#tend = tend;
    this.#onFailure = onFailure;
    this.#times = new OutputTimes(path);
  }

  async start(): Promise<void> {
    await makeOutputFile(this.#path);
    this.#end = watchGrowth(this.#path, (growth) => this.#grown(growth));
  }

  async stop(): Promise<void> {
    this.#end();
    clearTimeout(this.#retry);
    this.#growth = undefined;
    await this.#work;
    await this.#attempt(() => this.#times.close());
  }

  #grown(growth: Growth | undefined): void {
    this.#growth = growth;
    this.#work ??= this.#catchUp().finally(() => {
      this.#work = undefined;
    });
  }

  async #catchUp(): Promise<void> {
    for (let done: Growth | undefined; this.#growth !== undefined && this.#growth !== done; ) {
      const growth = (done = this.#growth);
      const isDone = await this.#attempt(async () => {
        const found = await this.#tend(growth, this.#times);
        if (found !== undefined && this.#growth !== undefined) this.#growth = found;
      });
      if (isDone) continue;
      clearTimeout(this.#retry);
      this.#retry = setTimeout(() => this.#grown(this.#growth), tryAgainMs).unref();
      return;
    }
  }

  async #attempt(run: () => Promise<void>): Promise<boolean> {
    try {
      await run();
      return true;
    } catch (error) {
      this.#onFailure(this.#path, error);
      return false;
    }
  }
}
