import type { Clock } from "../../domain/clock.ts";
import type { ProbeResult } from "../../domain/explain.ts";
import { defaultProbe, type Probe, type ProbeAction } from "../../domain/probe.ts";
import { pause } from "../pause.ts";
import { Asking, type Counted } from "./asking.ts";
import type { Question } from "./question.ts";
import type { Place } from "./questions.ts";

/** What is asked of an instance while it runs. */
export interface WatchPlan extends Place {
  readonly startupProbe: Probe | undefined;
  /** Undefined: with a url a request at its path, without one ready is whoever has started. */
  readonly readinessProbe: Probe | undefined;
  readonly livenessProbe: Probe | undefined;
  readonly readinessTimeoutMs: number;
  readonly minReadyMs: number;
  /** Whether it had been ready before: then it has started, and nothing is missed if it does not answer at once. */
  readonly wasReady: boolean;
}

export interface WatchTools {
  readonly questionOf: (action: ProbeAction) => Question;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly tell: (news: News) => void;
  readonly note: (result: ProbeResult) => void;
}

export type News =
  | { readonly kind: "ready" }
  | { readonly kind: "unready"; readonly message: string }
  | { readonly kind: "readiness_missed"; readonly message: string }
  | { readonly kind: "liveness_failed"; readonly message: string };

/** Tells whether an instance can do its work and whether it is past helping itself, from its start until the signal aborts. */
export async function watchInstance(plan: WatchPlan, tools: WatchTools): Promise<void> {
  try {
    const watch = new Watch(plan, tools);
    if (!plan.wasReady && !(await watch.start())) return;
    await Promise.all([watch.readiness(), watch.liveness()]);
  } catch (error) {
    if (!tools.signal.aborted) throw error;
  }
}

const firstPauseMs = 200;
const longestLastMs = 500;

class Watch {
  readonly #plan: WatchPlan;
  readonly #tools: WatchTools;
  readonly #startup: Asking | undefined;
  readonly #readiness: Asking | undefined;
  readonly #liveness: Asking | undefined;
  #isReady: boolean;

  constructor(plan: WatchPlan, tools: WatchTools) {
    this.#plan = plan;
    this.#tools = tools;
    const { url, startupProbe, readinessProbe, livenessProbe } = plan;
    const readiness = readinessProbe ?? (url === undefined ? undefined : defaultProbe("readiness"));
    this.#startup = startupProbe && this.#asking(startupProbe, "startup");
    this.#readiness = readiness && this.#asking(readiness, "readiness");
    this.#liveness = livenessProbe && this.#asking(livenessProbe, "liveness");
    this.#isReady = plan.wasReady;
  }

  #asking(probe: Probe, role: "startup" | "readiness" | "liveness"): Asking {
    return new Asking(probe, role, this.#tools.questionOf(probe.action), this.#tools);
  }

  /** False: it took too long. */
  async start(): Promise<boolean> {
    const { tell, clock, signal } = this.#tools;
    const { readinessTimeoutMs, minReadyMs } = this.#plan;
    const asking = this.#startup ?? this.#readiness;
    if (asking === undefined) {
      await pause(clock, minReadyMs, signal);
      return true;
    }
    const problem = await this.#untilSuccess(asking);
    if (problem !== undefined) {
      const message = `${asking.question.subject} did not succeed within ${readinessTimeoutMs / 1_000} s: ${problem}`;
      tell({ kind: "readiness_missed", message });
      return false;
    }
    if (asking === this.#readiness) this.#tellReady();
    return true;
  }

  /** A process that has started and is not ready is never ended for that. */
  async readiness(): Promise<void> {
    const { tell } = this.#tools;
    const asking = this.#readiness;
    if (asking === undefined) return this.#tellReady();
    if (!this.#isReady) {
      const problem = await this.#untilSuccess(asking);
      if (problem === undefined) this.#tellReady();
      else tell({ kind: "unready", message: `${asking.question.subject} does not succeed: ${problem}` });
    }
    // What is told once stays told.
    if (asking.probe.action.kind === "notify") return;
    await this.#each(asking, (answer) => {
      if (asking.hasSucceeded) this.#tellReady();
      else if (asking.hasJustFailed) tell({ kind: "unready", message: asking.describe(answer) });
    });
  }

  async liveness(): Promise<void> {
    const asking = this.#liveness;
    if (asking === undefined) return;
    await this.#each(asking, (answer) => {
      if (!asking.hasJustFailed) return;
      this.#tools.tell({ kind: "liveness_failed", message: asking.describe(answer) });
    });
  }

  #tellReady(): void {
    this.#isReady = true;
    this.#tools.tell({ kind: "ready" });
  }

  /** Asks each period. */
  async #each(asking: Asking, judge: (answer: Counted) => void): Promise<never> {
    for (;;) {
      await pause(this.#tools.clock, asking.probe.periodMs, this.#tools.signal);
      const answer = await asking.ask();
      if (answer.kind !== "void") judge(answer);
    }
  }

  /** Asks after 0.2 s growing to the period, until it succeeds. Resolves with the problem when that takes too long. */
  async #untilSuccess(asking: Asking): Promise<string | undefined> {
    const { probe } = asking;
    const isDefault = asking === this.#readiness && this.#plan.readinessProbe === undefined;
    const slowestMs = isDefault ? defaultProbe("startup").periodMs : probe.periodMs;
    const { readinessTimeoutMs } = this.#plan;
    const deadline = new Deadline(readinessTimeoutMs, this.#tools);
    // The last question needs time for its answer, too.
    const lastMs = Math.min(longestLastMs, probe.timeoutMs, readinessTimeoutMs / 4);
    for (let pauseMs = firstPauseMs; ; pauseMs *= 2) {
      // What the process tells by itself is waited for.
      const timeoutMs = probe.action.kind === "notify" ? deadline.leftMs : Math.min(probe.timeoutMs, deadline.leftMs);
      const answer = await asking.ask(timeoutMs);
      deadline.extend(answer.lagMs);
      if (asking.hasSucceeded) return undefined;
      const leftMs = deadline.leftMs - lastMs;
      if (leftMs <= 0) return answer.message;
      await deadline.pause(Math.min(pauseMs, slowestMs, leftMs));
    }
  }
}

/** A point in time that moves on while we ourselves stand still: that is not the service's time. */
class Deadline {
  readonly #tools: Pick<WatchTools, "clock" | "signal">;
  #atMs: number;

  constructor(ms: number, tools: Pick<WatchTools, "clock" | "signal">) {
    this.#tools = tools;
    this.#atMs = tools.clock.monotonicMs() + ms;
  }

  get leftMs(): number {
    return this.#atMs - this.#tools.clock.monotonicMs();
  }

  extend(ms: number): void {
    this.#atMs += Math.max(0, ms);
  }

  async pause(ms: number): Promise<void> {
    const { clock, signal } = this.#tools;
    const start = clock.monotonicMs();
    await pause(clock, ms, signal);
    this.extend(clock.monotonicMs() - start - ms);
  }
}
