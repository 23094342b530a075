import type { ServiceStatus, SideInstance } from "./status.ts";
import {
  act,
  conditionEvents,
  describeExit,
  type Effect,
  type Ending,
  type Input,
  type Moment,
  type Step,
  same,
  told,
  type Want,
  withCondition,
} from "./step.ts";

/**
 * The rules of two instances at once. A *replacement* starts beside the current instance; when it is ready it is promoted, and the one before
 * is *retiring* until the route leads elsewhere and its requests are done. If it does not become ready, the current one stays.
 */

/** Whether an instance is another than the current one. */
export function isSide(status: ServiceStatus, instanceId: string): boolean {
  return status.replacement?.instanceId === instanceId || status.retiring?.instanceId === instanceId;
}

export function sidesOf({ replacement, retiring }: ServiceStatus): SideInstance[] {
  return [replacement, retiring].filter((side) => side !== undefined);
}

/** A start beside the current instance. */
export function launchReplacement(
  status: ServiceStatus,
  { instanceId, url, unenforced }: Extract<Input, { kind: "launching" }>,
  want: Want,
  { now }: Moment,
): Step {
  const replacement: SideInstance = {
    ...{ instanceId, url, pid: undefined, generation: want.generation, startTime: now },
    ...{ isStopping: false, failure: "" },
  };
  const message = `starting beside ${status.instanceId ?? "the current instance"}, to take over`;
  const limited = withCondition(cleared(status, now), "limits_not_enforced", unenforced, now);
  const next = { ...limited, reason: "ROLLING", message: "", waitingFor: [], replacement };
  return {
    status: next,
    events: [{ body: { type: "instance_starting", instanceId }, message }, ...conditionEvents(status, next)],
    effects: [],
  };
}

/** A newer wish: the replacement is not what is wanted any more. */
export function settleReplacement(status: ServiceStatus, replacement: SideInstance, want: Want): Step {
  if (replacement.isStopping || replacement.generation >= want.generation) return same(status);
  return stopReplacement(status, replacement, { failure: "", message: "stopped: a newer change came" });
}

export function sideRuns(status: ServiceStatus, instanceId: string, pid: number | undefined): Step {
  const { replacement, retiring } = status;
  if (replacement?.instanceId === instanceId) {
    const next = { ...status, replacement: { ...replacement, pid } };
    return replacement.isStopping ? act(next, { kind: "stop", instanceId, routeFirst: false }) : same(next);
  }
  if (retiring?.instanceId !== instanceId) return same(status);
  const next = { ...status, retiring: { ...retiring, pid } };
  return act(
    next,
    retiring.isStopping ? { kind: "stop", instanceId, routeFirst: false } : { kind: "retire", instanceId },
  );
}

/** The replacement is ready: from now on it is the current instance. */
export function promote(status: ServiceStatus, replacement: SideInstance, { now }: Moment): Step {
  if (replacement.isStopping || status.state !== "running") return same(status);
  const { instanceId, pid, generation, url, startTime } = replacement;
  const before = sideOfCurrent(status, now);
  const next: ServiceStatus = {
    ...cleared(status, now),
    ...{ instanceId, pid, url, startTime, readyTime: now, observedGeneration: generation },
    ...{ ready: true, published: true, reason: "", message: "" },
    ...{ restarts: 0, failures: 0, recentFailures: [], failedGeneration: 0 },
    replacement: undefined,
    retiring: before,
  };
  return {
    status: next,
    events: [
      told("instance_ready", replacement, "ready"),
      told("instance_promoted", replacement, `takes over from ${before.instanceId}`),
    ],
    effects: [{ kind: "retire", instanceId: before.instanceId }],
  };
}

export function replacementMissed(status: ServiceStatus, replacement: SideInstance, failure: string): Step {
  if (replacement.isStopping) return same(status);
  return stopReplacement(status, replacement, { failure, message: `stopped: ${failure}` });
}

/** The current instance ended by itself while its replacement was on its way: that one is the service now. */
export function takeOver(
  ended: ServiceStatus,
  { instanceId, pid, generation, url, startTime }: SideInstance,
  { now }: Moment,
): ServiceStatus {
  return {
    ...ended,
    ...{ instanceId, pid, url, startTime, observedGeneration: generation },
    ...{ state: "starting", ready: false, readyTime: undefined, reason: "", message: "" },
    published: ended.published && ended.url === url,
    replacement: undefined,
    transitionTime: now,
  };
}

/** What remains when a side has ended: its event, and where the service stands without it. */
export function sideEnded(
  status: ServiceStatus,
  instanceId: string,
  ending: Ending,
  want: Want,
  { now }: Moment,
): Step {
  const { replacement, retiring } = status;
  if (retiring?.instanceId === instanceId) {
    return { ...same({ ...status, retiring: undefined }), events: [exitOf(retiring, ending, true)] };
  }
  if (replacement === undefined) return same(status);
  const exited = exitOf(replacement, ending, replacement.isStopping);
  const without = { ...status, replacement: undefined, reason: status.reason === "ROLLING" ? "" : status.reason };
  const failure = replacement.failure || (replacement.isStopping ? "" : describeExit(ending));
  if (failure === "" || replacement.generation < want.generation || want.wish !== "running") {
    return { ...same(without), events: [exited] };
  }
  const message = `the update to generation ${replacement.generation} failed, the instance before goes on: ${failure}`;
  const failed = withCondition({ ...without, failedGeneration: replacement.generation }, "update_failed", message, now);
  return { ...same(failed), events: [exited, { body: { type: "update_failed" }, message }] };
}

/** The server ended before the replacement's command ran. */
export function sideNeverRan(status: ServiceStatus, instanceId: string, ending: Ending): Step {
  const side = sidesOf(status).find((each) => each.instanceId === instanceId);
  if (side === undefined) return same(status);
  const without =
    status.replacement === side ? { ...status, replacement: undefined } : { ...status, retiring: undefined };
  return { ...same(without), events: [exitOf(side, ending, false)] };
}

/** Ends the sides with the service, as far as that was not begun. */
export function stopSides(status: ServiceStatus): { status: ServiceStatus; effects: Effect[] } {
  const effects = sidesOf(status)
    .filter((side) => !side.isStopping)
    .map(({ instanceId }): Effect => ({ kind: "stop", instanceId, routeFirst: false }));
  const end = (side: SideInstance | undefined) => (side === undefined ? undefined : { ...side, isStopping: true });
  return { status: { ...status, replacement: end(status.replacement), retiring: end(status.retiring) }, effects };
}

/** The current instance as one that is taken over from. */
function sideOfCurrent(status: ServiceStatus, now: Date): SideInstance {
  const { instanceId = "", pid, observedGeneration: generation, url, startTime = now } = status;
  return { instanceId, pid, generation, url, startTime, isStopping: false, failure: "" };
}

function stopReplacement(
  status: ServiceStatus,
  replacement: SideInstance,
  { failure, message }: { failure: string; message: string },
): Step {
  const { instanceId } = replacement;
  return {
    status: { ...status, replacement: { ...replacement, isStopping: true, failure } },
    events: [told("instance_stopping", replacement, message)],
    effects: [{ kind: "stop", instanceId, routeFirst: false }],
  };
}

function exitOf({ instanceId, pid }: SideInstance, ending: Ending, requested: boolean): Step["events"][number] {
  const exit = { ...ending, requested };
  return { body: { type: "instance_exited", instanceId, pid, exit }, message: describeExit(exit) };
}

function cleared(status: ServiceStatus, now: Date): ServiceStatus {
  return withCondition(status, "update_failed", "", now);
}
