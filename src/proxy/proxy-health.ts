import type { ProxyFailure } from "./driver.ts";
import type { RouteTrouble } from "./route-verdict.ts";

export interface HealthTiming {
  /** How long it may fail before it counts as down: a proxy that is restarted at once is no news. */
  readonly downAfterMs: number;
  /** The longest pause between two attempts; the first is 100 ms. */
  readonly retryCapMs: number;
  /** The pause after a refused token: only a person can help. */
  readonly refusedRetryMs: number;
}

/** Whether the proxy works, and when to try again while it does not. */
export class ProxyHealth {
  readonly #timing: HealthTiming;
  readonly #random: () => number;
  #state: "unknown" | "up" | "down" = "unknown";
  #failingSinceMs: number | undefined;
  #attempts = 0;
  #retryAtMs: number | undefined;
  #trouble: RouteTrouble | undefined;

  constructor(timing: HealthTiming, random: () => number = Math.random) {
    this.#timing = timing;
    this.#random = random;
  }

  /** Undefined while it is up, or failing for so short that nobody needs to know. */
  get trouble(): RouteTrouble | undefined {
    return this.#trouble;
  }

  /** When to try again; undefined: nothing is wrong. */
  get retryAtMs(): number | undefined {
    return this.#retryAtMs;
  }

  /** It answered. Returns whether that is news. */
  answered(): boolean {
    const isNews = this.#state !== "up";
    this.#state = "up";
    this.#failingSinceMs = undefined;
    this.#trouble = undefined;
    return isNews;
  }

  /** Everything asked of it was done. */
  finished(): void {
    this.#attempts = 0;
    this.#retryAtMs = undefined;
  }

  /** Something suggests that it works again: the next attempt is due. */
  hope(nowMs: number): void {
    if (this.#retryAtMs !== undefined) this.#retryAtMs = nowMs;
    this.#attempts = 0;
  }

  /** Some routes were not done; all are looked at again soon, and ever later. */
  unfinished(nowMs: number): void {
    this.#retryAtMs = nowMs + this.#pause();
  }

  /** It failed in an attempt that began at `sinceMs`. Returns whether it counts as down from now on. */
  failed(failure: ProxyFailure, sinceMs: number, nowMs: number): boolean {
    const isRefused = failure.reason === "PROXY_AUTH";
    this.#failingSinceMs ??= sinceMs;
    this.#retryAtMs = nowMs + (isRefused ? this.#timing.refusedRetryMs : this.#pause());
    const isDown = isRefused || this.#state === "down" || nowMs - this.#failingSinceMs >= this.#timing.downAfterMs;
    if (!isDown) return false;
    const isNews = this.#state !== "down";
    this.#state = "down";
    this.#trouble = { reason: failure.reason, message: failure.message, isLasting: isRefused };
    return isNews;
  }

  /** Doubling, with jitter, so that several servers do not ask in step. */
  #pause(): number {
    const whole = Math.min(this.#timing.retryCapMs, 100 * 2 ** this.#attempts);
    this.#attempts = Math.min(this.#attempts + 1, 20);
    return whole * (0.5 + this.#random() / 2);
  }
}
