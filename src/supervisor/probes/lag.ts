import type { Clock } from "../../domain/clock.ts";

const tickMs = 100;

/** Measures from now on how long this process stood still at a stretch, busy or frozen; the returned function ends that and tells. */
export function measureLag(clock: Clock): () => number {
  let longestMs = 0;
  let last = clock.monotonicMs();
  let cancel = (): void => undefined;
  const look = (): void => {
    const now = clock.monotonicMs();
    longestMs = Math.max(longestMs, now - last - tickMs);
    last = now;
  };
  const tick = (): void => {
    look();
    cancel = clock.after(tickMs, tick);
  };
  cancel = clock.after(tickMs, tick);
  return () => {
    look();
    cancel();
    return longestMs;
  };
}
