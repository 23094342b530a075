import type { Clock } from "../domain/clock.ts";
import { pause } from "./pause.ts";
import { type HttpProbe, probeOnce, untilReady } from "./readiness.ts";

export interface ReadinessWatch {
  /** Undefined: ready is whoever stays up. */
  readonly url: string | undefined;
  readonly path: string;
  readonly readinessTimeoutMs: number;
  readonly minReadyMs: number;
  /** Whether it had been ready before it was adopted: then nothing is missed if it does not answer at once. */
  readonly wasReady: boolean;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly tell: (news: News) => void;
}

export type News =
  | { readonly kind: "ready" }
  | { readonly kind: "unready"; readonly message: string }
  | { readonly kind: "readiness_missed"; readonly message: string };

const everyMs = 10_000;
const timeoutMs = 2_000;
const failuresToUnready = 3;

/** Tells whether an instance can do its work, from its start until the signal aborts. */
export async function watchReadiness(watch: ReadinessWatch): Promise<void> {
  try {
    if (watch.url === undefined) await waitUp(watch);
    else await watchUrl({ url: watch.url, path: watch.path }, watch);
  } catch (error) {
    if (!watch.signal.aborted) throw error;
  }
}

async function waitUp({ minReadyMs, wasReady, clock, signal, tell }: ReadinessWatch): Promise<void> {
  await pause(clock, wasReady ? 0 : minReadyMs, signal);
  tell({ kind: "ready" });
}

async function watchUrl(probe: HttpProbe, watch: ReadinessWatch): Promise<void> {
  const { readinessTimeoutMs, wasReady, signal, tell } = watch;
  if (!wasReady) {
    const answer = await untilReady(probe, { deadlineMs: readinessTimeoutMs, signal });
    if (!answer.ready) {
      const message = `${probe.url}${probe.path} did not answer within ${readinessTimeoutMs / 1_000} s: ${answer.problem}`;
      return tell({ kind: "readiness_missed", message });
    }
    tell({ kind: "ready" });
  }
  await watchHealth(probe, watch);
}

async function watchHealth(probe: HttpProbe, { clock, signal, tell }: ReadinessWatch): Promise<void> {
  for (let failures = 0; ; ) {
    await pause(clock, everyMs, signal);
    const answer = await probeOnce(probe, { timeoutMs, signal });
    if (answer.ready) {
      failures = 0;
      tell({ kind: "ready" });
    } else if (++failures === failuresToUnready) {
      tell({ kind: "unready", message: `${probe.url}${probe.path} failed ${failures} times: ${answer.problem}` });
    }
  }
}
