import type { RestartPolicy } from "./service.ts";
import type { InstanceExit, ServiceStatus } from "./status.ts";

/** What follows from an end that nobody had asked for. */
export type Judgement =
  | { readonly kind: "complete" }
  | { readonly kind: "give_up"; readonly reason: "EXITED" | "MAX_RESTARTS"; readonly failures: number }
  | {
      readonly kind: "restart";
      readonly delayMs: number;
      readonly failures: number;
      readonly recentFailures: readonly Date[];
      readonly inCrashLoop: boolean;
      /** Whether this end is the one that makes it a crash loop. */
      readonly entersCrashLoop: boolean;
    };

/** How an instance ended, in the eyes of the policy. */
export interface Ending {
  readonly exit: Pick<InstanceExit, "reason" | "code">;
  /** It was ended because it had not become ready in time: a failure, whatever its exit code says. */
  readonly missedReadiness: boolean;
  readonly now: Date;
  /** 0 to 1, for the jitter. */
  readonly random: number;
}

const crashLoopExits = 5;
const crashLoopWindowMs = 5 * 60_000;
const earnsImmediateRestartMs = 10_000;
const jitterShare = 0.25;

/** Whether and when an instance that ended by itself is followed by another. `before` is the status while it ran. */
export function judgeEnd(before: ServiceStatus, ending: Ending, policy: RestartPolicy): Judgement {
  const succeeded = ending.exit.reason === "exited" && ending.exit.code === 0 && !ending.missedReadiness;
  if (policy.mode !== "always" && succeeded) return { kind: "complete" };
  const readyMs = readyFor(before, ending.now);
  // A process that stayed ready long enough earned a clean slate: its end is the first again.
  const failures = readyMs >= policy.resetAfterMs ? 1 : before.failures + 1;
  if (policy.mode === "never") return { kind: "give_up", reason: "EXITED", failures };
  if (policy.maxRestarts !== undefined && failures > policy.maxRestarts) {
    return { kind: "give_up", reason: "MAX_RESTARTS", failures };
  }
  const recentFailures = remember(before, failures, ending.now);
  const inCrashLoop = recentFailures.length >= crashLoopExits;
  const isForgiven = failures === 1 && readyMs >= earnsImmediateRestartMs;
  return {
    kind: "restart",
    delayMs: isForgiven ? 0 : backOffMs(failures, policy) * (1 + jitterShare * ending.random),
    failures,
    recentFailures,
    inCrashLoop,
    entersCrashLoop: inCrashLoop && !isInCrashLoop(before),
  };
}

/** The delay after failure number `failures` in a row, without jitter. */
export function backOffMs(failures: number, policy: Pick<RestartPolicy, "baseDelayMs" | "maxDelayMs">): number {
  return Math.min(policy.maxDelayMs, policy.baseDelayMs * 2 ** Math.min(failures - 1, 30));
}

function readyFor({ readyTime }: ServiceStatus, now: Date): number {
  return readyTime === undefined ? 0 : now.getTime() - readyTime.getTime();
}

function isInCrashLoop({ recentFailures }: ServiceStatus): boolean {
  return recentFailures.length >= crashLoopExits;
}

/** The waiting that a crash loop causes must not end it: at the cap of the curve fewer than five exits fit into the window. */
function remember(before: ServiceStatus, failures: number, now: Date): Date[] {
  const since = now.getTime() - crashLoopWindowMs;
  const goesOn = isInCrashLoop(before) && failures > 1;
  const counted = goesOn ? before.recentFailures : before.recentFailures.filter((time) => time.getTime() > since);
  return [...counted, now].slice(-crashLoopExits);
}
