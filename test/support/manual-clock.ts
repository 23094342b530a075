import { setImmediate } from "node:timers/promises";
import type { Clock } from "../../src/domain/clock.ts";

interface Timer {
  readonly atMs: number;
  readonly run: () => void;
}

/** Time that passes when a test says so. */
export class ManualClock implements Clock {
  #ms = 0;
  readonly #timers = new Set<Timer>();

  now(): Date {
    return new Date(this.#ms);
  }

  monotonicMs(): number {
    return this.#ms;
  }

  after(delayMs: number, run: () => void): () => void {
    const timer = { atMs: this.#ms + delayMs, run };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  /** Lets time pass and everything happen that it brings, in order. */
  async advance(ms: number): Promise<void> {
    const end = this.#ms + ms;
    await setImmediate();
    for (let next = this.#next(end); next !== undefined; next = this.#next(end)) {
      this.#timers.delete(next);
      this.#ms = Math.max(this.#ms, next.atMs);
      next.run();
      await setImmediate();
    }
    this.#ms = end;
  }

  /** Lets time pass as it does for a process that is frozen: what is due comes later, at the next advance. */
  freeze(ms: number): void {
    this.#ms += ms;
  }

  #next(end: number): Timer | undefined {
    const due = [...this.#timers].filter(({ atMs }) => atMs <= end);
    return due.sort((one, other) => one.atMs - other.atMs)[0];
  }
}
