import type { Writable } from "node:stream";
import { AppError } from "../domain/errors.ts";
import type { Call } from "./call.ts";
import { rpcError } from "./errors.ts";

/** Tells that nothing of what waits in a stream has moved for so long, give or take a half. Runs only while somebody waits for room. */
export class StallTimer {
  readonly #stream: Writable;
  readonly #afterMs: number;
  readonly #onStall: () => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(stream: Writable, afterMs: number, onStall: () => void) {
    this.#stream = stream;
    this.#afterMs = afterMs;
    this.#onStall = onStall;
  }

  /** Counts from now on; to be called again when something has moved that the stream does not show. */
  start(): void {
    this.stop();
    let length = this.#stream.writableLength;
    let stoodStill = false;
    // Looks twice: after a pause of our own, a process that was stopped for example, the first look comes before anything could move.
    const look = () => {
      const standsStill = this.#stream.writableLength === length;
      length = this.#stream.writableLength;
      if (!standsStill || !stoodStill) stoodStill = standsStill;
      else {
        this.stop();
        this.#onStall();
      }
    };
    this.#timer = setInterval(look, this.#afterMs / 2).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}

/** The timer that ends a watch whose client does not take what waits for it; other streams may be left alone for as long as their clients like. */
export function stallTimer(call: Call, stream: Writable, stalledMs: number, reset: () => void): StallTimer | undefined {
  if (!call.target.isWatch) return undefined;
  return new StallTimer(stream, stalledMs, () => {
    call.interrupt(rpcError(tooSlow, call.callId));
    // The status waits behind what is not read, and never comes.
    reset();
  });
}

const tooSlow = new AppError(
  "resource_exhausted",
  "WATCHER_TOO_SLOW",
  "the watcher does not read; resume after its last cursor",
  { retryAfterMs: 1000 },
);
