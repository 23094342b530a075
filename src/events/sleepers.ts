/** How many are woken in one turn of the event loop: whatever else waits for it, a unary call for example, comes between two groups. */
const wokenATurn = 128;

/** A place in a circle, between its neighbours; alone in one of its own at first. Who comes and goes makes nothing for the collector. */
class Place {
  #before: Place = this;
  #after: Place = this;

  get after(): Place {
    return this.#after;
  }

  get isAlone(): boolean {
    return this.#after === this;
  }

  /** Takes another place: the last one of a circle that begins after `first`. */
  moveBefore(first: Place): void {
    this.quit();
    this.#before = first.#before;
    this.#after = first;
    first.#before.#after = this;
    first.#before = this;
  }

  quit(): void {
    this.#before.#after = this.#after;
    this.#after.#before = this.#before;
    this.#before = this;
    this.#after = this;
  }

  /** Puts all others of its circle to the end of another one. */
  emptyInto(first: Place): void {
    if (this.isAlone) return;
    this.#after.#before = first.#before;
    first.#before.#after = this.#after;
    this.#before.#after = first;
    first.#before = this.#before;
    this.#before = this;
    this.#after = this;
  }
}

/** Those who have read everything and wait for more. They are woken together but in groups, so that thousands of them hold up nobody. */
export class Sleepers {
  readonly #asleep = new Place();
  readonly #woken = new Place();
  #isWaking = false;

  /** To be called by the sleeper. */
  take(sleeper: Sleeper): void {
    sleeper.moveBefore(this.#asleep);
  }

  /** Wakes all who sleep now, from the next turn on. Those of another circle that was woken before this one come first. */
  wake(): void {
    this.#asleep.emptyInto(this.#woken);
    if (this.#isWaking || this.#woken.isAlone) return;
    this.#isWaking = true;
    setImmediate(() => this.#wakeGroup());
  }

  #wakeGroup(): void {
    for (let woken = 0; woken < wokenATurn; woken++) {
      const { after } = this.#woken;
      if (after instanceof Sleeper) after.wake();
    }
    this.#isWaking = !this.#woken.isAlone;
    if (this.#isWaking) setImmediate(() => this.#wakeGroup());
  }
}

/** Sleeps again and again, until it leaves. It holds one listener and one timer: what each sleep left behind would add up over a stream's life. */
export abstract class Sleeper extends Place {
  protected readonly signal: AbortSignal;
  readonly #sleepers: Sleepers;
  readonly #onAbort = () => {
    const isAsleep = !this.isAlone;
    this.leave();
    if (isAsleep) this.awake();
  };
  #untilMs = 0;
  #timer: NodeJS.Timeout | undefined;

  /** It leaves by itself when the signal aborts. */
  constructor(sleepers: Sleepers, signal: AbortSignal) {
    super();
    this.#sleepers = sleepers;
    this.signal = signal;
    signal.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** Wakes it, if it sleeps. */
  wake(): void {
    if (this.isAlone) return;
    this.quit();
    this.awake();
  }

  leave(): void {
    this.quit();
    this.signal.removeEventListener("abort", this.#onAbort);
    clearTimeout(this.#timer);
  }

  /** Has `awake` called once, when there may be more, at a time by performance.now(), or when the signal aborts: who has slept looks for itself. */
  protected sleep(untilMs = Number.POSITIVE_INFINITY): void {
    if (this.signal.aborted) return queueMicrotask(() => this.awake());
    this.#untilMs = untilMs;
    this.#keepTime();
    this.#sleepers.take(this);
  }

  /** Must not throw: others are woken after it. */
  protected abstract awake(): void;

  // One that was woken early sleeps on under the same timer, which sees when it goes off that it is too early.
  #keepTime(): void {
    if (this.#timer !== undefined || this.#untilMs === Number.POSITIVE_INFINITY) return;
    const ring = () => {
      this.#timer = undefined;
      if (performance.now() >= this.#untilMs) this.wake();
      else if (!this.isAlone) this.#keepTime();
    };
    this.#timer = setTimeout(ring, roundedUp(this.#untilMs - performance.now())).unref();
  }
}

/** One that is awaited. */
export class AwaitedSleeper extends Sleeper {
  #resolve = () => {};

  /** Resolves when it is woken. */
  rest(untilMs?: number): Promise<void> {
    return new Promise((resolve) => {
      this.#resolve = resolve;
      this.sleep(untilMs);
    });
  }

  protected override awake(): void {
    this.#resolve();
  }
}

// Node keeps a list of timers for each duration: thousands that differ by a moment are thousands of lists.
function roundedUp(durationMs: number): number {
  return Math.max(1, Math.ceil(durationMs / 50)) * 50;
}
