import { open, stat, truncate } from "node:fs/promises";
import { watchGrowth } from "./file-growth.ts";
import { readKept, writeKept } from "./output-kept.ts";
import { runTool } from "./spawn.ts";

export interface OutputKeeperOptions {
  /** How much of each file is kept on disk; default 50 MiB. */
  readonly keepBytes?: number;
  /** Told once when the file system cannot give back the beginning of a file, so that files begin anew instead. */
  readonly onBeginAnew: (path: string, reason: string) => void;
  /** Told of a file that could not be bounded this time; it is tried again when it grows. */
  readonly onFailure: (path: string, error: unknown) => void;
}

/**
 * Bounds what services write on disk. They append to plain files, without us; of a file that has grown beyond what is kept
 * the beginning is given back to the file system. No byte moves and no offset changes: the file only looks long. On disk
 * it holds `keepBytes` and an eighth more, plus what is written in the tenth of a second until we look again.
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
    const file = new KeptFile(path, (size) => this.#bound(path, size), this.#options.onFailure);
    this.#files.set(path, file);
    await file.start();
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

  async #bound(path: string, size: number): Promise<void> {
    const { base, head } = await readKept(path);
    const first = Number(head - base);
    if (size - first <= this.#keepBytes + this.#keepBytes / 8) return;
    const newFirst = Math.floor((size - this.#keepBytes) / blockBytes) * blockBytes;
    if (this.#canPunch) {
      // Told before it is done: a reader then never takes the emptied part for output.
      await writeKept(path, { base, head: base + BigInt(newFirst) });
      await this.#punch(path, first, newFirst);
    }
    if (!this.#canPunch) await beginAnew(path, base);
  }

  async #punch(path: string, from: number, to: number): Promise<void> {
    const start = Math.floor(from / blockBytes) * blockBytes;
    const range = [`--offset=${start}`, `--length=${to - start}`];
    const { status, errorOutput } = await runTool("/usr/bin/fallocate", ["--punch-hole", ...range, path]);
    if (status === 0) return;
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

/** One file: at most one action at a time, and one more when it grew meanwhile. */
class KeptFile {
  readonly #path: string;
  readonly #bound: (size: number) => Promise<void>;
  readonly #onFailure: OutputKeeperOptions["onFailure"];
  #end: () => void = () => undefined;
  #size: number | undefined;
  #work: Promise<void> | undefined;

  constructor(path: string, bound: (size: number) => Promise<void>, onFailure: OutputKeeperOptions["onFailure"]) {
    this.#path = path;
    this.#bound = bound;
    this.#onFailure = onFailure;
  }

  async start(): Promise<void> {
    const handle = await open(this.#path, "a", 0o600);
    await handle.close();
    this.#end = watchGrowth(this.#path, (size) => this.#grown(size));
  }

  async stop(): Promise<void> {
    this.#end();
    this.#size = undefined;
    await this.#work;
  }

  #grown(size: number | undefined): void {
    this.#size = size;
    this.#work ??= this.#catchUp().finally(() => {
      this.#work = undefined;
    });
  }

  async #catchUp(): Promise<void> {
    try {
      for (let done: number | undefined; this.#size !== undefined && this.#size !== done; ) {
        done = this.#size;
        await this.#bound(done);
      }
    } catch (error) {
      this.#onFailure(this.#path, error);
    }
  }
}
