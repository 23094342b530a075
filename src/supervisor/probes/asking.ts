import type { Clock } from "../../domain/clock.ts";
import type { ProbeResult } from "../../domain/explain.ts";
import type { Probe, ProbeRole } from "../../domain/probe.ts";
import { measureLag } from "./lag.ts";
import type { Question } from "./question.ts";

export interface AskingOptions {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Given each answer that tells something. */
  readonly note: (result: ProbeResult) => void;
}

/** An answer that counts, or `void`: it says nothing of the service. */
export interface Counted {
  readonly kind: "yes" | "no" | "void";
  readonly message: string;
  /** How long we ourselves stood still meanwhile. */
  readonly lagMs: number;
}

/** One probe: its question, asked one at a time, and the answers in a row that its thresholds count. */
export class Asking {
  readonly probe: Probe;
  readonly role: ProbeRole;
  readonly question: Question;
  readonly #options: AskingOptions;
  #successes = 0;
  #failures = 0;

  constructor(probe: Probe, role: ProbeRole, question: Question, options: AskingOptions) {
    this.probe = probe;
    this.role = role;
    this.question = question;
    this.#options = options;
  }

  /** Whether so many successes in a row have come as it takes. */
  get hasSucceeded(): boolean {
    return this.#successes >= this.probe.successThreshold;
  }

  /** Whether so many failures in a row have come as it takes. */
  get hasFailed(): boolean {
    return this.#failures >= this.probe.failureThreshold;
  }

  /** Whether the last answer was the failure that made them too many. */
  get hasJustFailed(): boolean {
    return this.#failures === this.probe.failureThreshold;
  }

  /** Its failures in words. */
  describe({ message }: Counted): string {
    const times = this.#failures === 1 ? "once" : `${this.#failures} times in a row`;
    return `${this.question.subject} failed ${times}: ${message}`;
  }

  /** Rejects only when the signal aborts. */
  async ask(timeoutMs = this.probe.timeoutMs): Promise<Counted> {
    const { clock, signal, note } = this.#options;
    const endLag = measureLag(clock);
    const start = clock.monotonicMs();
    let lagMs = 0;
    const { kind, message } = await this.question.ask(signal, timeoutMs).finally(() => {
      lagMs = endLag();
    });
    const durationMs = Math.round(clock.monotonicMs() - start);
    // Who stood still for that long cannot tell who was late.
    if (kind === "no" && lagMs > timeoutMs / 2)
      return { kind: "void", message: `Steward itself stood still: ${message}`, lagMs };
    note({ role: this.role, success: kind === "yes", message, time: clock.now(), durationMs });
    if (kind === "unasked") return { kind: "void", message: `it could not be asked: ${message}`, lagMs };
    this.#successes = kind === "yes" ? this.#successes + 1 : 0;
    this.#failures = kind === "no" ? this.#failures + 1 : 0;
    return { kind, message, lagMs };
  }
}
