import type { Clock } from "../domain/clock.ts";

/**
 * How fast a node starts processes: a token bucket. Whoever has failed least in a row is served first, then whoever came first, so that a thousand
 * services that fail together starve neither the others nor the database.
 */
export class RestartBudget {
  readonly #clock: Clock;
  readonly #perSecond: number;
  readonly #burst: number;
  #tokens: number;
  #filledAtMs: number;
  #queue: Waiting[] = [];
  #cancel: (() => void) | undefined;

  constructor(clock: Clock, { perSecond = 20, burst = 50 } = {}) {
    this.#clock = clock;
    this.#perSecond = perSecond;
    this.#burst = burst;
    this.#tokens = burst;
    this.#filledAtMs = clock.monotonicMs();
  }

  /** Whether a start may happen now; then it counts. Whoever waits goes first. */
  takeAtOnce(): boolean {
    this.#fill();
    if (this.#queue.length > 0 || this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }

  /** Resolves when a start may happen. `failures` is asked for at each turn: a service may be forgiven while it waits. */
  take(failures: () => number): Promise<void> {
    return new Promise((resolve) => {
      this.#queue.push({ failures, resolve });
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
      this.#next()?.resolve();
    }
    if (this.#queue.length === 0 || this.#cancel !== undefined) return;
    const waitMs = Math.max(1, ((1 - this.#tokens) * 1_000) / this.#perSecond);
    this.#cancel = this.#clock.after(waitMs, () => {
      this.#cancel = undefined;
      this.#serve();
    });
  }

  #next(): Waiting | undefined {
    let [best, least] = [0, Number.POSITIVE_INFINITY];
    for (const [index, { failures }] of this.#queue.entries()) {
      const count = failures();
      if (count < least) [best, least] = [index, count];
    }
    return this.#queue.splice(best, 1)[0];
  }

  #fill(): void {
    const nowMs = this.#clock.monotonicMs();
    this.#tokens = Math.min(this.#burst, this.#tokens + ((nowMs - this.#filledAtMs) / 1_000) * this.#perSecond);
    this.#filledAtMs = nowMs;
  }
}

interface Waiting {
  readonly failures: () => number;
  readonly resolve: () => void;
}
