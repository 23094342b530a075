import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";

const greatestAgeMs = 30 * 60_000;

/** A time give or take a tenth, so that what began together does not end together. */
export function jittered(timeMs: number): number {
  return Math.round(timeMs * (0.9 + Math.random() * 0.2));
}

/**
 * The end that every watch comes to: after half an hour, give or take a tenth, its client shall resume elsewhere, so that clients spread
 * over the servers again after a rollout. Its signal also aborts with the call.
 */
export class StreamAge {
  readonly #ending = new AbortController();
  #reached = false;

  constructor(call: AbortSignal, clock: Clock, ageMs = jittered(greatestAgeMs)) {
    const cancel = clock.after(ageMs, () => {
      this.#reached = true;
      this.#ending.abort(endOfAge);
    });
    // With the call, not with the generator: one that is parked by a client that does not read is never resumed.
    const end = () => {
      cancel();
      this.#ending.abort(call.reason);
    };
    call.addEventListener("abort", end, { once: true });
    if (call.aborted) end();
  }

  get signal(): AbortSignal {
    return this.#ending.signal;
  }

  /** Throws unavailable with STREAM_MAX_AGE if that is why the stream ended. */
  throwIfReached(): void {
    if (!this.#reached) return;
    throw new AppError(
      "unavailable",
      "STREAM_MAX_AGE",
      "the stream reached its greatest age; resume after its last cursor",
      {
        retryAfterMs: 100,
      },
    );
  }
}

// One for all: nobody sees it, and each would be made with a stack.
const endOfAge = new Error("the stream has reached its greatest age");
