import { type Clock, systemClock } from "./clock.ts";

/**
 * Keeps the lines of one kind in a log few: so many at once, then so many a second in the long run. When everything is slow, writing about each
 * of it would make it slower.
 */
export class LineBudget {
  readonly #clock: Pick<Clock, "monotonicMs">;
  readonly #burst: number;
  readonly #perSecond: number;
  #left: number;
  #filledAtMs: number;
  #omitted = 0;

  constructor({ clock = systemClock, burst = 20, perSecond = 1 }: LineBudgetOptions = {}) {
    this.#clock = clock;
    this.#burst = burst;
    this.#perSecond = perSecond;
    this.#left = burst;
    this.#filledAtMs = clock.monotonicMs();
  }

  /** Whether the line may be written, and then how many were left out since the last one; undefined: leave it out. */
  take(): { readonly omitted: number } | undefined {
    const nowMs = this.#clock.monotonicMs();
    this.#left = Math.min(this.#burst, this.#left + ((nowMs - this.#filledAtMs) / 1_000) * this.#perSecond);
    this.#filledAtMs = nowMs;
    if (this.#left < 1) {
      this.#omitted += 1;
      return undefined;
    }
    this.#left -= 1;
    const omitted = this.#omitted;
    this.#omitted = 0;
    return { omitted };
  }
}

export interface LineBudgetOptions {
  readonly clock?: Pick<Clock, "monotonicMs">;
  readonly burst?: number;
  readonly perSecond?: number;
}
