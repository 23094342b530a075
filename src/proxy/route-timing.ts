/** How often the route keeper looks and repeats. All in milliseconds; periods vary by a tenth. */
export interface RouteTiming {
  /** The cheap question whether the proxy still is the one that has our routes. */
  readonly probeEveryMs: number;
  /** Everything is read and compared; above 10,000 routes proportionally less often. */
  readonly observeEveryMs: number;
  /** Everything is put again, whatever the proxy shows. */
  readonly reassertEveryMs: number;
  readonly downAfterMs: number;
  readonly retryCapMs: number;
  readonly refusedRetryMs: number;
  /** The pause before the feed is followed again after it broke. */
  readonly refollowMs: number;
}

export const defaultRouteTiming: RouteTiming = {
  probeEveryMs: 2_000,
  observeEveryMs: 30_000,
  reassertEveryMs: 600_000,
  downAfterMs: 1_000,
  retryCapMs: 5_000,
  refusedRetryMs: 30_000,
  refollowMs: 1_000,
};
