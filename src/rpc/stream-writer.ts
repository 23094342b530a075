import type { Writable } from "node:stream";

/** Writes to a call as fast as its client reads. Whoever waits for room is woken by the client, or by the end of the call. */
export class StreamWriter {
  readonly #stream: Writable;
  readonly #signal: AbortSignal;
  #wake: (() => void) | undefined;

  /** Listens once for the whole stream; a listener for each wait would pile up on the signal. */
  constructor(stream: Writable, signal: AbortSignal) {
    this.#stream = stream;
    this.#signal = signal;
    const wake = () => this.#wake?.();
    stream.on("drain", wake);
    signal.addEventListener("abort", wake, { once: true });
  }

  /** Returns at once if there is room for more, or the call is over; else a promise of that. */
  write(bytes: Buffer): Promise<void> | undefined {
    if (this.#signal.aborted || this.#stream.destroyed || this.#stream.write(bytes) || this.#signal.aborted) return;
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = undefined;
        resolve();
      };
    });
  }
}
