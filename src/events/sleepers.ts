/** How many are woken in one turn of the event loop: whatever else waits for it, a unary call for example, comes between two groups. */
const wokenATurn = 128;

/** Those who have read everything and wait for more. They are woken together but in groups, so that thousands of them hold up nobody. */
export class Sleepers {
  readonly #asleep = new Set<Sleeper>();

  /** A place for one of them, for as long as it reads; to be left at the end. */
  join(signal: AbortSignal): Sleeper {
    return new Sleeper(this.#asleep, signal);
  }

  wake(): void {
    const woken = [...this.#asleep];
    this.#asleep.clear();
    wakeInGroups(woken, 0);
  }
}

/** Holds one listener and one timer however often it sleeps: what each sleep left behind would add up over a stream's life. */
export class Sleeper {
  readonly #asleep: Set<Sleeper>;
  readonly #signal: AbortSignal;
  readonly #onAbort = () => this.wake();
  #resolve: (() => void) | undefined;
  #untilMs = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(asleep: Set<Sleeper>, signal: AbortSignal) {
    this.#asleep = asleep;
    this.#signal = signal;
    signal.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** Resolves when there may be more, at a time by performance.now(), or when the signal aborts: who has slept looks for itself. */
  sleep(untilMs = Number.POSITIVE_INFINITY): Promise<void> {
    if (this.#signal.aborted) return Promise.resolve();
    this.#untilMs = untilMs;
    this.#keepTime();
    return new Promise((resolve) => {
      this.#resolve = resolve;
      this.#asleep.add(this);
    });
  }

  wake(): void {
    this.#resolve?.();
    this.#resolve = undefined;
  }

  leave(): void {
    this.#asleep.delete(this);
    this.#signal.removeEventListener("abort", this.#onAbort);
    clearTimeout(this.#timer);
  }

  // One that was woken early sleeps on under the same timer, which sees when it goes off that it is too early.
  #keepTime(): void {
    if (this.#timer !== undefined || this.#untilMs === Number.POSITIVE_INFINITY) return;
    const ring = () => {
      this.#timer = undefined;
      if (performance.now() >= this.#untilMs) this.wake();
      else if (this.#resolve !== undefined) this.#keepTime();
    };
    this.#timer = setTimeout(ring, roundedUp(this.#untilMs - performance.now())).unref();
  }
}

// Node keeps a list of timers for each duration: thousands that differ by a moment are thousands of lists.
function roundedUp(durationMs: number): number {
  return Math.max(1, Math.ceil(durationMs / 50)) * 50;
}

function wakeInGroups(sleepers: readonly Sleeper[], first: number): void {
  const end = first + wokenATurn;
  for (const sleeper of sleepers.slice(first, end)) sleeper.wake();
  if (end < sleepers.length) setImmediate(wakeInGroups, sleepers, end);
}
