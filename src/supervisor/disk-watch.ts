import { statfs } from "node:fs/promises";
import type { Clock } from "../domain/clock.ts";
import type { EventBody } from "../domain/event.ts";

export interface DiskWatchOptions {
  /** Whose file system is watched. */
  readonly directory: string;
  /** How much shall stay free; undefined: 64 MiB, or a hundredth of the file system when that is more. */
  readonly reserveBytes: number | undefined;
  readonly clock: Clock;
  readonly facts: {
    record(fact: {
      readonly events: readonly { readonly body: EventBody; readonly message: string }[];
    }): Promise<unknown>;
  };
  /** Told at the start and with each change: why output may be lost, or that it is kept (empty). */
  readonly tell: (risk: string) => void;
  readonly onFailure: (error: unknown) => void;
}

/** Sees a disk fill before services lose their output, and tells; and tells when there is space again. */
export class DiskWatch {
  readonly #options: DiskWatchOptions;
  #isFull: boolean | undefined;
  #cancel: (() => void) | undefined;
  #isStopped = false;
  #looking: Promise<void> = Promise.resolve();

  constructor(options: DiskWatchOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    await this.#look();
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#cancel?.();
    await this.#looking;
  }

  async #look(): Promise<void> {
    try {
      this.#judge(await freeSpace(this.#options));
    } catch (error) {
      this.#options.onFailure(error);
    }
    if (this.#isStopped) return;
    this.#cancel = this.#options.clock.after(pollMs, () => {
      this.#looking = this.#look();
    });
  }

  #judge({ freeBytes, reserveBytes }: FreeSpace): void {
    const wasFull = this.#isFull;
    // With a margin, so that it does not go to and fro.
    const isFull = freeBytes < (wasFull === true ? reserveBytes * freedAt : reserveBytes);
    if (isFull === wasFull) return;
    this.#isFull = isFull;
    const least = mebibytes(reserveBytes);
    this.#options.tell(
      isFull ? `the disk is almost full: what it writes may be lost (less than ${least} are free)` : "",
    );
    const free = `${mebibytes(freeBytes)} are free in ${this.#options.directory}`;
    if (isFull) this.#record("disk_full", `only ${free}, and ${least} should be`);
    else if (wasFull === true) this.#record("disk_freed", free);
  }

  /** Waits for a database that has no space either: nothing waits for it. */
  #record(type: "disk_full" | "disk_freed", message: string): void {
    const { facts, onFailure } = this.#options;
    facts.record({ events: [{ body: { type }, message }] }).catch(onFailure);
  }
}

const pollMs = 2_000;
const freedAt = 1.25;
const mebibyte = 1024 * 1024;

interface FreeSpace {
  /** For those who are not root. */
  readonly freeBytes: number;
  readonly reserveBytes: number;
}

async function freeSpace({ directory, reserveBytes }: DiskWatchOptions): Promise<FreeSpace> {
  const { bavail, blocks, bsize } = await statfs(directory);
  return { freeBytes: bavail * bsize, reserveBytes: reserveBytes ?? Math.max(64 * mebibyte, (blocks * bsize) / 100) };
}

function mebibytes(bytes: number): string {
  return `${Math.floor(bytes / mebibyte)} MiB`;
}
