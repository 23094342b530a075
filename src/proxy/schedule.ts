import type { Clock } from "../domain/clock.ts";

/** When the route keeper has to look at the proxy next, and its sleep until then. */
export class Schedule {
  readonly #clock: Clock;
  #observeAtMs = Number.POSITIVE_INFINITY;
  #probeAtMs = Number.POSITIVE_INFINITY;
  #reassertAtMs = Number.POSITIVE_INFINITY;
  #isRung = false;
  #wakeUp: () => void = () => {};

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get isObserveDue(): boolean {
    return this.#observeAtMs <= this.#clock.monotonicMs();
  }

  get isProbeDue(): boolean {
    return this.#probeAtMs <= this.#clock.monotonicMs();
  }

  get isReassertDue(): boolean {
    return this.#reassertAtMs <= this.#clock.monotonicMs();
  }

  observeInMs(ms: number): void {
    this.#observeAtMs = this.#clock.monotonicMs() + ms;
  }

  probeInMs(ms: number): void {
    this.#probeAtMs = this.#clock.monotonicMs() + ms;
  }

  reassertInMs(ms: number): void {
    this.#reassertAtMs = this.#clock.monotonicMs() + ms;
  }

  /** Ends the rest that is under way, or the next one at once. */
  ring(): void {
    this.#isRung = true;
    this.#wakeUp();
  }

  /** Sleeps until something is due or rings. While something is wrong only `retryAtMs` counts. */
  async rest(retryAtMs: number | undefined): Promise<void> {
    const dueAtMs = retryAtMs ?? Math.min(this.#observeAtMs, this.#probeAtMs, this.#reassertAtMs);
    const { promise, resolve } = Promise.withResolvers<void>();
    const cancel = this.#clock.after(Math.max(0, dueAtMs - this.#clock.monotonicMs()), resolve);
    this.#wakeUp = resolve;
    if (this.#isRung) resolve();
    await promise;
    cancel();
    this.#isRung = false;
  }

  /** Sleeps, at most until the signal. */
  async pause(ms: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const cancel = this.#clock.after(ms, resolve);
    signal.addEventListener("abort", () => resolve(), { once: true });
    await promise;
    cancel();
  }
}
