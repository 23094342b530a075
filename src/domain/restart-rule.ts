import type { RestartPolicy } from "./service.ts";
import type { InstanceExit, ServiceStatus } from "./status.ts";

/** What follows from an end that nobody had asked for. */
export type Judgement =
  | { readonly kind: "complete" }
  | { readonly kind: "give_up"; readonly reason: GiveUpReason; readonly failures: number }
  | {
      readonly kind: "restart";
      readonly delayMs: number;
      readonly failures: number;
      readonly recentFailures: readonly Date[];
      readonly inCrashLoop: boolean;
      /** Whether this end is the one that makes it a crash loop. */
      readonly entersCrashLoop: boolean;
    };

/** Why there is no further start: the mode, the count, or an exit code that says so. */
export type GiveUpReason = "EXITED" | "MAX_RESTARTS" | "NO_RESTART_EXIT_CODE";

/** How an instance ended, in the eyes of the policy. */
export interface Ending {
  readonly exit: Pick<InstanceExit, "reason" | "code">;
  /** It was ended because it had not become ready in time, or its liveness had failed: a failure, whatever its exit code says. */
  readonly wasGivenUp: boolean;
  readonly now: Date;
  /** 0 to 1, for the jitter. */
  readonly random: number;
}

const jitterShare = 0.25;

/** Whether and when an instance that ended by itself is followed by another. `before` is the status while it ran. */
export function judgeEnd(before: ServiceStatus, ending: Ending, policy: RestartPolicy): Judgement {
  const succeeded = ending.exit.reason === "exited" && ending.exit.code === 0 && !ending.wasGivenUp;
  if (policy.mode !== "always" && succeeded) return { kind: "complete" };
  const readyMs = readyFor(before, ending.now);
  // A process that stayed ready long enough earned a clean slate: its end is the first again.
  const failures = readyMs >= policy.resetAfterMs ? 1 : before.failures + 1;
  if (isFinal(ending, policy)) return { kind: "give_up", reason: "NO_RESTART_EXIT_CODE", failures };
  if (policy.mode === "never") return { kind: "give_up", reason: "EXITED", failures };
  if (policy.maxRestarts !== undefined && failures > policy.maxRestarts) {
    return { kind: "give_up", reason: "MAX_RESTARTS", failures };
  }
  const recentFailures = remember(before, failures, ending.now, policy);
  const inCrashLoop = recentFailures.length >= policy.crashLoopExits;
  const isForgiven = failures === 1 && readyMs >= policy.immediateAfterMs && before.readyTime !== undefined;
  return {
    kind: "restart",
    delayMs: isForgiven ? 0 : backOffMs(failures, policy) * (1 + jitterShare * ending.random),
    failures,
    recentFailures,
    inCrashLoop,
    entersCrashLoop: inCrashLoop && !isInCrashLoop(before, policy),
  };
}

/** The delay after failure number `failures` in a row, without jitter. */
export function backOffMs(
  failures: number,
  { baseDelayMs, maxDelayMs, multiplier }: Pick<RestartPolicy, "baseDelayMs" | "maxDelayMs" | "multiplier">,
): number {
  return Math.min(maxDelayMs, baseDelayMs * multiplier ** (failures - 1));
}

function readyFor({ readyTime }: ServiceStatus, now: Date): number {
  return readyTime === undefined ? 0 : now.getTime() - readyTime.getTime();
}

/** Whether the service itself says that starting it again does not help. */
function isFinal({ exit, wasGivenUp }: Ending, { noRestartExitCodes }: RestartPolicy): boolean {
  return !wasGivenUp && exit.reason === "exited" && exit.code !== undefined && noRestartExitCodes.includes(exit.code);
}

function isInCrashLoop({ recentFailures }: ServiceStatus, { crashLoopExits }: RestartPolicy): boolean {
  return recentFailures.length >= crashLoopExits;
}

/** The waiting that a crash loop causes must not end it: at the cap of the curve fewer exits than it takes fit into the window. */
function remember(before: ServiceStatus, failures: number, now: Date, policy: RestartPolicy): Date[] {
  const since = now.getTime() - policy.crashLoopWindowMs;
  const goesOn = isInCrashLoop(before, policy) && failures > 1;
  const counted = goesOn ? before.recentFailures : before.recentFailures.filter((time) => time.getTime() > since);
  return [...counted, now].slice(-policy.crashLoopExits);
}
