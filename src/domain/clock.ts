/** Time and timers as a parameter, so that a minute of back-off is tested in a millisecond. */
export interface Clock {
  /** Wall-clock time, for what is stored and shown. */
  now(): Date;
  /** Milliseconds of a clock that never jumps, for measuring durations. */
  monotonicMs(): number;
  /** Calls `run` once after `delayMs`; the returned function cancels it. The timer does not keep the process alive. */
  after(delayMs: number, run: () => void): () => void;
}

export const systemClock: Clock = {
  now: () => new Date(),
  monotonicMs: () => performance.now(),
  after(delayMs, run) {
    const timer = setTimeout(run, delayMs);
    timer.unref();
    return () => clearTimeout(timer);
  },
};
