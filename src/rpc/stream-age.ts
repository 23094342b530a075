import type { Clock } from "../domain/clock.ts";

const greatestAgeMs = 30 * 60_000;

/** A time give or take a tenth, so that what began together does not end together. */
export function jittered(timeMs: number): number {
  return Math.round(timeMs * (0.9 + Math.random() * 0.2));
}

/**
 * When a watch that begins now ends: after half an hour, give or take a tenth, its client shall resume elsewhere, so that clients spread over the
 * servers again after a rollout.
 */
export function streamEndMs(clock: Clock): number {
  return clock.monotonicMs() + jittered(greatestAgeMs);
}
