import type { Clock } from "../domain/clock.ts";

/**
 * How fast a node starts processes: a token bucket, first come, first served. A thousand services that fail together neither starve the others
 * nor the database.
 */
export class RestartBudget {
  readonly #clock: Clock;
  readonly #perSecond: number;
  readonly #burst: number;
  #tokens: number;
  #filledAtMs: number;
  #queue: (() => void)[] = [];
  #cancel: (() => void) | undefined;

  constructor(clock: Clock, { perSecond = 20, burst = 50 } = {}) {
    this.#clock = clock;
    this.#perSecond = perSecond;
    this.#burst = burst;
    this.#tokens = burst;
    this.#filledAtMs = clock.monotonicMs();
  }

  /** Resolves when a start may happen. */
  take(): Promise<void> {
    return new Promise((resolve) => {
      this.#queue.push(resolve);
      this.#serve();
    });
  }

  /** Starts that wait for their turn. */
  get queued(): number {
    return this.#queue.length;
  }

  stop(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    this.#queue = [];
  }

  #serve(): void {
    this.#fill();
    while (this.#tokens >= 1 && this.#queue.length > 0) {
      this.#tokens -= 1;
      this.#queue.shift()?.();
    }
    if (this.#queue.length === 0 || this.#cancel !== undefined) return;
    const waitMs = Math.max(1, ((1 - this.#tokens) * 1_000) / this.#perSecond);
    this.#cancel = this.#clock.after(waitMs, () => {
      this.#cancel = undefined;
      this.#serve();
    });
  }

  #fill(): void {
    const nowMs = this.#clock.monotonicMs();
    this.#tokens = Math.min(this.#burst, this.#tokens + ((nowMs - this.#filledAtMs) / 1_000) * this.#perSecond);
    this.#filledAtMs = nowMs;
  }
}
