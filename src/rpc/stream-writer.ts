import type { Writable } from "node:stream";
import type { StallTimer } from "./stalled-watch.ts";

/** Writes to a call as fast as its client reads. Whoever waits for room is woken by the client, or by the end of the call. */
export class StreamWriter {
  readonly #stream: Writable;
  readonly #signal: AbortSignal;
  readonly #stall: StallTimer | undefined;
  #wake: (() => void) | undefined;
  /** What of a large message is still to be written. */
  #rest: Uint8Array | undefined;

  /** Listens once for the whole stream; a listener for each wait would pile up on the signal. */
  constructor(stream: Writable, signal: AbortSignal, stall: StallTimer | undefined) {
    this.#stream = stream;
    this.#signal = signal;
    this.#stall = stall;
    stream.on("drain", () => this.#drained());
    signal.addEventListener("abort", () => this.#over(), { once: true });
  }

  /** Returns at once if there is room for more, or the call is over; else a promise of that. */
  write(bytes: Uint8Array): Promise<void> | undefined {
    if (this.#signal.aborted || this.#stream.destroyed || this.#put(bytes) || this.#signal.aborted) return;
    this.#stall?.start();
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = undefined;
        this.#stall?.stop();
        resolve();
      };
    });
  }

  /** Whether all is written, and there is room for more. */
  #put(bytes: Uint8Array): boolean {
    let rest = bytes;
    // The stream tells when a piece has gone, but not how much of it: in small ones a slow client is seen to read.
    while (rest.length > largestPiece) {
      const hasRoom = this.#stream.write(rest.subarray(0, largestPiece));
      rest = rest.subarray(largestPiece);
      if (hasRoom) continue;
      this.#rest = rest;
      return false;
    }
    return this.#stream.write(rest);
  }

  #drained(): void {
    const rest = this.#rest;
    this.#rest = undefined;
    if (rest === undefined || this.#put(rest)) this.#wake?.();
    else this.#stall?.start();
  }

  /** The status follows whole messages only: it is behind what is left of this one, if anybody still reads. */
  #over(): void {
    if (this.#rest !== undefined && !this.#stream.destroyed && !this.#stream.writableEnded)
      this.#stream.write(this.#rest);
    this.#rest = undefined;
    this.#wake?.();
  }
}

const largestPiece = 64 * 1024;
