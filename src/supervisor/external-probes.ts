import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import type { ProbeResult } from "../domain/explain.ts";
import { externalProbe, found } from "../domain/external-status.ts";
import type { Probe } from "../domain/probe.ts";
import { publicPrefix, type Service } from "../domain/service.ts";
import { pause } from "./pause.ts";
import { Asking, type AskingOptions } from "./probes/asking.ts";
import { aborted } from "./probes/question.ts";
import { networkQuestion } from "./probes/questions.ts";
import type { Fact } from "./runner-tools.ts";

export interface ExternalProbesOptions {
  readonly clock: Clock;
  /** 0 to 1. */
  readonly random: () => number;
  /** Rejects with `aborted` when the service is not what the guard says any more. */
  readonly facts: { record(fact: Fact): Promise<bigint> };
  readonly onFailure: (error: unknown, service: string) => void;
}

const keptResults = 10;
/** Those which are known at the start are not all asked in the same moment. */
const firstWithinMs = 1_000;
const jitter = 0.1;
const tryAgainMs = 500;

/** Asks the services that somebody else runs whether they are up, and records what changes. Nothing waits for it and nothing is done about it. */
export class ExternalProbes {
  readonly #options: ExternalProbesOptions;
  readonly #asked = new Map<string, Asked>();
  readonly #stopping = new AbortController();
  readonly #ending = new Set<Promise<void>>();

  constructor(options: ExternalProbesOptions) {
    this.#options = options;
  }

  /** The service as the log tells it now. */
  note(service: Service): void {
    const known = this.#asked.get(service.uid);
    if (known !== undefined && service.revision < known.service.revision) return;
    const probe = service.wish === "deleted" ? undefined : externalProbe(service.spec);
    if (probe === undefined || this.#stopping.signal.aborted) return this.forget(service.uid);
    const plan = JSON.stringify([service.spec.url, probe]);
    if (known?.plan === plan) {
      known.service = service;
      return;
    }
    this.forget(service.uid);
    const asked: Asked = { service, plan, abort: new AbortController(), results: known?.results ?? [] };
    this.#asked.set(service.uid, asked);
    const task = this.#ask(asked, probe).finally(() => this.#ending.delete(task));
    this.#ending.add(task);
  }

  /** It is gone, or is not asked any more. */
  forget(uid: string): void {
    this.#asked.get(uid)?.abort.abort();
    this.#asked.delete(uid);
  }

  /** Forgets all but these. */
  keep(uids: ReadonlySet<string>): void {
    for (const uid of this.#asked.keys()) if (!uids.has(uid)) this.forget(uid);
  }

  /** The last answers, newest first. */
  results(uid: string): readonly ProbeResult[] {
    return this.#asked.get(uid)?.results ?? [];
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    this.keep(new Set());
    await Promise.all(this.#ending);
  }

  /** Never rejects. */
  async #ask(asked: Asked, probe: Probe): Promise<void> {
    const { clock, random, onFailure } = this.#options;
    const { signal } = asked.abort;
    const note = (result: ProbeResult): void => {
      asked.results.unshift(result);
      asked.results.splice(keptResults);
    };
    try {
      const asking = askingOf(asked.service, probe, { clock, signal, note });
      await pause(clock, random() * firstWithinMs, signal);
      for (;;) {
        const { kind, message } = await asking.ask();
        if (asking.hasSucceeded) await this.#record(asked, { isUp: true, message });
        // A service of which nothing is known yet is neither.
        else if (kind === "no" && asking.hasFailed) await this.#record(asked, { isUp: false, message });
        await pause(clock, probe.periodMs * (1 + jitter * random()), signal);
      }
    } catch (error) {
      if (!signal.aborted) onFailure(error, asked.service.name);
    }
  }

  /** Until it is durable or not so any more. A change that came in between is taken in first. */
  async #record(asked: Asked, finding: { isUp: boolean; message: string }): Promise<void> {
    const { clock, facts, onFailure } = this.#options;
    const { signal } = asked.abort;
    for (;;) {
      const { service } = asked;
      const change = found(service.status, finding, clock.now());
      if (change === undefined) return;
      try {
        const guard = { version: service.version };
        const written = facts.record({ serviceUid: service.uid, ...change, guard });
        const revision = await Promise.race([written, aborted(signal)]);
        if (asked.service === service) asked.service = { ...service, status: change.status, revision };
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof AppError && error.code === "aborted")) onFailure(error, service.name);
      }
      await pause(clock, tryAgainMs, signal);
    }
  }
}

interface Asked {
  /** As it is known to be. */
  service: Service;
  readonly plan: string;
  readonly abort: AbortController;
  readonly results: ProbeResult[];
}

function askingOf({ name, spec }: Service, probe: Probe, options: AskingOptions): Asking {
  const { action } = probe;
  if (action.kind === "exec" || action.kind === "notify") throw new Error(`an external service has no ${action.kind}`);
  return new Asking(probe, "external", networkQuestion(action, { url: spec.url, path: publicPrefix(name) }), options);
}
