import { type GiveUpReason, type Judgement, judgeEnd } from "./restart-rule.ts";
import {
  isSide,
  launchReplacement,
  promote,
  replacementMissed,
  settleReplacement,
  sideEnded,
  sideNeverRan,
  sideRuns,
  sidesOf,
  stopSides,
  takeOver,
} from "./rolling-update.ts";
import { type InstanceExit, liveStates, type ServiceStatus } from "./status.ts";
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

const stopAgainMs = 30_000;

/** Every rule about when a process starts, stops or is given up. Pure: no clock, no chance, no process table. */
export function step(status: ServiceStatus, input: Input, want: Want, moment: Moment): Step {
  const next = react(forgive(status, want.resets), input, want, moment);
  if (next.status.ready === status.ready) return next;
  return { ...next, status: { ...next.status, readyTransitionTime: moment.now } };
}

/** Carries out a reset: what failed before it is forgotten, and whoever waits or gave up because of that may start at once. */
export function forgive(status: ServiceStatus, resets: number): ServiceStatus {
  if (resets <= status.observedResets) return status;
  const forgiven = { ...status, observedResets: resets, restarts: 0, failures: 0, recentFailures: [] };
  if (status.state !== "backing_off" && status.state !== "crash_loop" && status.state !== "failed") return forgiven;
  return { ...forgiven, state: "pending", reason: "", message: "", nextStartTime: undefined };
}

function react(status: ServiceStatus, input: Input, want: Want, moment: Moment): Step {
  if (isOfNobody(status, input)) return same(status);
  switch (input.kind) {
    case "look":
      return settle(status, want, moment);
    case "due":
      return due(status, want, moment);
    case "launching":
      return status.state === "running"
        ? launchReplacement(status, input, want, moment)
        : launching(status, input, want, moment);
    case "launched":
      return running(status, "instance_started", input, want, moment);
    case "adopted":
      return running(status, "instance_adopted", input, want, moment);
    case "ready":
      return becameReady(status, input.instanceId, moment);
    case "unready":
      return isSide(status, input.instanceId)
        ? missedReplacement(status, input)
        : stoppedAnswering(status, input.message);
    case "readiness_missed":
      return missedReadiness(status, input, moment);
    case "liveness_failed":
      return failedLiveness(status, input, moment);
    case "exited":
      return isSide(status, input.instanceId)
        ? afterSide(sideEnded(status, input.instanceId, input.exit, want, moment), want, moment)
        : exited(status, input.exit, want, moment);
    case "never_ran":
      return isSide(status, input.instanceId)
        ? afterSide(sideNeverRan(status, input.instanceId, input.exit), want, moment)
        : neverRan(status, input.exit, want, moment);
    case "stop_failed":
      return stopFailed(status, input, moment);
    case "output":
      return outputAtRisk(status, input.risk, moment);
  }
}

/** Whether it tells of an instance that is neither the current one nor beside it: its end was told before. */
function isOfNobody(status: ServiceStatus, input: Input): boolean {
  if (!("instanceId" in input) || input.kind === "launching") return false;
  return input.instanceId !== status.instanceId && !isSide(status, input.instanceId);
}

/** What to do about the wish as things stand. Doing it twice changes nothing. */
function settle(status: ServiceStatus, want: Want, moment: Moment): Step {
  switch (status.state) {
    case "starting":
      return isObsolete(status, want) ? replace(status, want, moment) : same(status);
    case "running":
      return settleRunning(status, want, moment);
    case "stopping":
    case "stop_failed":
    case "external":
      return same(status);
    case "pending":
    case "stopped":
      return want.wish === "running" ? launchWhenAllowed(status, want, moment) : rest(status, moment);
    case "completed":
    case "failed":
      if (want.wish !== "running") return rest(status, moment);
      return isObsolete(status, want) ? launchWhenAllowed(status, want, moment) : same(status);
    case "backing_off":
    case "crash_loop":
      if (want.wish !== "running") return rest(status, moment);
      return isObsolete(status, want) || isDue(status, moment)
        ? launchWhenAllowed(status, want, moment)
        : act(status, { kind: "wake", at: status.nextStartTime ?? moment.now });
  }
}

function settleRunning(status: ServiceStatus, want: Want, moment: Moment): Step {
  if (want.wish !== "running") return beginStop(status, want, moment);
  if (status.replacement !== undefined) return settleReplacement(status, status.replacement, want);
  if (!isObsolete(status, want)) return same(status);
  if (want.spec.updateStrategy === "recreate") return replace(status, want, moment);
  // One update at a time: the instance that was taken over from leaves first.
  return status.retiring === undefined ? launchWhenAllowed(status, want, moment) : same(status);
}

/** Ends an instance that is not wanted any more; one that could not be followed by another yet goes on meanwhile. */
function replace(status: ServiceStatus, want: Want, moment: Moment): Step {
  return want.wish === "running" && want.waitingFor.length > 0
    ? wait(status, want, moment)
    : beginStop(status, want, moment);
}

/** Whether the instance is not what is wanted any more. What a failed update wanted is not tried again by itself. */
function isObsolete({ observedGeneration, failedGeneration }: ServiceStatus, want: Want): boolean {
  return want.wish !== "running" || want.generation > Math.max(observedGeneration, failedGeneration);
}

function isDue({ nextStartTime }: ServiceStatus, { now }: Moment): boolean {
  return nextStartTime === undefined || nextStartTime <= now;
}

function launchWhenAllowed(status: ServiceStatus, want: Want, moment: Moment): Step {
  return want.waitingFor.length > 0 ? wait(status, want, moment) : act(status, { kind: "launch" });
}

const waitingForDependency = "WAITING_FOR_DEPENDENCY";

/** Holds a start back until its dependencies are as they must be; told once for each set of them. */
function wait(status: ServiceStatus, want: Want, { now }: Moment): Step {
  const names = want.waitingFor.map(({ service }) => service).join(", ");
  const isKnown = status.waitingFor.map(({ service }) => service).join(", ") === names;
  const isLive = liveStates.has(status.state);
  if (isKnown && (isLive || status.state === "pending")) return same(status);
  const message = `waits for ${names}`;
  const waiting = { ...status, waitingFor: want.waitingFor };
  const next: ServiceStatus = isLive
    ? waiting
    : {
        ...waiting,
        state: "pending",
        reason: waitingForDependency,
        message,
        nextStartTime: undefined,
        transitionTime: now,
      };
  return { status: next, events: [{ body: { type: "service_waiting" }, message }], effects: [] };
}

function due(status: ServiceStatus, want: Want, moment: Moment): Step {
  switch (status.state) {
    case "backing_off":
    case "crash_loop":
      return want.wish === "running" ? launchWhenAllowed(status, want, moment) : rest(status, moment);
    case "stop_failed":
      return act(status, ...stopAgain(status));
    case "running":
      if (status.reason === stopFailedReason) return act(status, ...stopAgain(status));
      return settle(status, want, moment);
    case "pending":
    case "starting":
    case "stopping":
    case "stopped":
    case "completed":
    case "failed":
    case "external":
      return settle(status, want, moment);
  }
}

/** Another try at everything that was asked to end and did not. */
function stopAgain(status: ServiceStatus): Effect[] {
  const { instanceId, startTime, state } = status;
  const current = state === "stop_failed" && startTime !== undefined ? [instanceId ?? ""] : [];
  const sides = sidesOf(status).filter((side) => side.isStopping || side === status.retiring);
  return [...current, ...sides.map((side) => side.instanceId)].map((id) => ({
    kind: "stop",
    instanceId: id,
    routeFirst: false,
  }));
}

function launching(
  status: ServiceStatus,
  input: Extract<Input, { kind: "launching" }>,
  want: Want,
  { now }: Moment,
): Step {
  // A client's start, restart or change is a new beginning; a restart of ours is counted.
  const fresh = want.generation > status.observedGeneration;
  const again = status.state === "backing_off" || status.state === "crash_loop";
  const restarts = fresh ? 0 : status.restarts + (again ? 1 : 0);
  const started: ServiceStatus = {
    ...status,
    state: "starting",
    ready: false,
    reason: "",
    message: "",
    observedGeneration: want.generation,
    instanceId: input.instanceId,
    pid: undefined,
    startTime: now,
    readyTime: undefined,
    restarts,
    failures: fresh ? 0 : status.failures,
    recentFailures: fresh ? [] : status.recentFailures,
    nextStartTime: undefined,
    url: input.url,
    // At another address nobody answers yet.
    published: status.published && status.url === input.url,
    waitingFor: [],
    failedGeneration: 0,
    transitionTime: now,
  };
  const limited = withCondition(started, "limits_not_enforced", input.unenforced, now);
  const next = withCondition(limited, "update_failed", "", now);
  const message = restarts === 0 ? "starting" : `restarting, ${restarts} since the last change`;
  return {
    status: next,
    events: [
      { body: { type: "instance_starting", instanceId: input.instanceId }, message },
      ...conditionEvents(status, next),
    ],
    effects: [],
  };
}

function running(
  status: ServiceStatus,
  type: "instance_started" | "instance_adopted",
  { instanceId, pid }: { readonly instanceId: string; readonly pid: number | undefined },
  want: Want,
  moment: Moment,
): Step {
  const side = isSide(status, instanceId);
  if (!side && !liveStates.has(status.state)) return same(status);
  const process = pid === undefined ? "its process" : `process ${pid}`;
  const message =
    type === "instance_started"
      ? `runs as ${process}`
      : `${process} outlived the server that started it and is taken over`;
  const event = { body: { type, instanceId, pid }, message };
  const seen = side ? sideRuns(status, instanceId, pid) : same({ ...status, pid });
  const then = settle(seen.status, want, moment);
  return { ...then, events: [event, ...then.events], effects: [...seen.effects, ...then.effects] };
}

function becameReady(status: ServiceStatus, instanceId: string, moment: Moment): Step {
  if (isSide(status, instanceId)) {
    return status.replacement?.instanceId === instanceId ? promote(status, status.replacement, moment) : same(status);
  }
  if ((status.state !== "starting" && status.state !== "running") || status.ready) return same(status);
  const first = status.state === "starting";
  const isRolling = status.replacement !== undefined;
  const next: ServiceStatus = {
    ...status,
    state: "running",
    ready: true,
    reason: isRolling ? status.reason : "",
    message: isRolling ? status.message : "",
    readyTime: status.readyTime ?? moment.now,
    published: true,
    transitionTime: first ? moment.now : status.transitionTime,
  };
  return { status: next, events: [told("instance_ready", status, first ? "ready" : "ready again")], effects: [] };
}

function stoppedAnswering(status: ServiceStatus, message: string): Step {
  if (status.state !== "running" || !status.ready) return same(status);
  const next: ServiceStatus = { ...status, ready: false, reason: "UNREADY", message };
  return { status: next, events: [told("instance_unready", status, message)], effects: [] };
}

const readinessTimeout = "READINESS_TIMEOUT";
const livenessFailed = "LIVENESS_FAILED";
const stopFailedReason = "STOP_FAILED";

function missedReadiness(
  status: ServiceStatus,
  { instanceId, message }: { readonly instanceId: string; readonly message: string },
  moment: Moment,
): Step {
  if (isSide(status, instanceId)) return missedReplacement(status, { instanceId, message });
  return status.state === "starting" ? stopBecause(status, readinessTimeout, message, moment) : same(status);
}

/** A replacement that is not going to be ready is given up; of an instance that was taken over from it does not matter. */
function missedReplacement(
  status: ServiceStatus,
  { instanceId, message }: { readonly instanceId: string; readonly message: string },
): Step {
  return status.replacement?.instanceId === instanceId
    ? replacementMissed(status, status.replacement, message)
    : same(status);
}

function failedLiveness(
  status: ServiceStatus,
  { instanceId, message }: { readonly instanceId: string; readonly message: string },
  moment: Moment,
): Step {
  if (isSide(status, instanceId)) return missedReplacement(status, { instanceId, message });
  // One that has started and is not ready yet may fail, too.
  if (status.state !== "starting" && status.state !== "running") return same(status);
  return stopBecause(status, livenessFailed, message, moment);
}

/** Ends an instance for what is a failure of its own. */
function stopBecause(status: ServiceStatus, reason: string, message: string, moment: Moment): Step {
  const { status: next, ...rest } = stopping(status, `stopped: ${message}`, false, moment);
  return { ...rest, status: { ...next, reason, message } };
}

/** A stop takes the route out first; a restart leaves it, because the next process is a moment away. */
function beginStop(status: ServiceStatus, want: Want, moment: Moment): Step {
  if (want.wish === "running") return stopping(status, "stopped to start anew", false, moment);
  const message = want.wish === "deleted" ? "stopped: the service is deleted" : "stopped as asked";
  const sides = stopSides(status);
  const then = stopping({ ...sides.status, published: false }, message, true, moment);
  return { ...then, effects: [...then.effects, ...sides.effects] };
}

function stopping(status: ServiceStatus, message: string, routeFirst: boolean, { now }: Moment): Step {
  return {
    status: {
      ...status,
      state: "stopping",
      ready: false,
      reason: "",
      message: "",
      waitingFor: [],
      transitionTime: now,
    },
    events: [told("instance_stopping", status, message)],
    effects: [{ kind: "stop", instanceId: status.instanceId ?? "", routeFirst }],
  };
}

function exited(status: ServiceStatus, ending: Ending, want: Want, moment: Moment): Step {
  if (!liveStates.has(status.state) || status.startTime === undefined) return same(status);
  const requested = status.state === "stopping" || status.state === "stop_failed";
  const { ended, event } = end(status, { ...ending, requested });
  const { replacement } = ended;
  if (!requested && replacement?.isStopping === false) {
    const then = settle(takeOver(ended, replacement, moment), want, moment);
    return { ...then, events: [event, ...then.events] };
  }
  const asWanted = (requested && !isOwnFailure(status)) || isObsolete(status, want);
  const then = asWanted
    ? afterEnd(ended, want, moment)
    : afterFailure(ended, status, { ...ending, requested }, want, moment);
  return { ...then, events: [event, ...then.events] };
}

/** Whether it was asked to end for what counts as a failure of its own. */
function isOwnFailure({ reason }: ServiceStatus): boolean {
  return reason === readinessTimeout || reason === livenessFailed;
}

function neverRan(status: ServiceStatus, ending: Ending, want: Want, moment: Moment): Step {
  if (!liveStates.has(status.state) || status.startTime === undefined) return same(status);
  const { ended, event } = end(status, { ...ending, requested: false });
  const then = afterEnd(ended, want, moment);
  return { ...then, events: [event, ...then.events] };
}

function end(status: ServiceStatus, lastExit: InstanceExit): { ended: ServiceStatus; event: Step["events"][number] } {
  const body = {
    type: "instance_exited",
    instanceId: status.instanceId ?? "",
    pid: status.pid,
    exit: lastExit,
  } as const;
  const ended = { ...status, ready: false, pid: undefined, startTime: undefined, readyTime: undefined, lastExit };
  return { ended, event: { body, message: describeExit(lastExit) } };
}

/** It ended as somebody asked, or nobody wants it any more. */
function afterEnd(ended: ServiceStatus, want: Want, moment: Moment): Step {
  if (want.wish !== "running") return rest(ended, moment);
  const pending: ServiceStatus = { ...ended, state: "pending", reason: "", message: "", transitionTime: moment.now };
  return launchWhenAllowed(pending, want, moment);
}

/** Where the service stands after one of its sides has ended. */
function afterSide(ended: Step, want: Want, moment: Moment): Step {
  const { state, startTime } = ended.status;
  const isLast = (state === "stopping" || state === "stop_failed") && startTime === undefined;
  const then = isLast ? afterEnd(ended.status, want, moment) : settle(ended.status, want, moment);
  return { ...then, events: [...ended.events, ...then.events] };
}

/** It ended and nobody had asked for that. */
function afterFailure(
  ended: ServiceStatus,
  before: ServiceStatus,
  exit: InstanceExit,
  want: Want,
  moment: Moment,
): Step {
  const isOwn = isOwnFailure(before);
  const message = isOwn ? before.message : describeExit(exit);
  const judgement = judgeEnd(before, { exit, wasGivenUp: isOwn, ...moment }, want.spec.restartPolicy);
  switch (judgement.kind) {
    case "complete":
      return completed(ended, moment);
    case "give_up":
      return gaveUp({ ...ended, failures: judgement.failures }, judgement.reason, message, moment);
    case "restart":
      return backOff(ended, judgement, { reason: isOwn ? before.reason : reasonOf(exit), message }, want, moment);
  }
}

function backOff(
  ended: ServiceStatus,
  judgement: Judgement & { kind: "restart" },
  { reason, message }: { reason: string; message: string },
  want: Want,
  { now }: Moment,
): Step {
  const { delayMs, failures, recentFailures, inCrashLoop, entersCrashLoop } = judgement;
  const nextStartTime = new Date(now.getTime() + delayMs);
  const status: ServiceStatus = {
    ...ended,
    state: inCrashLoop ? "crash_loop" : "backing_off",
    reason: inCrashLoop ? "CRASH_LOOP" : reason,
    message,
    failures,
    recentFailures,
    nextStartTime,
    transitionTime: now,
  };
  const type = entersCrashLoop ? "crash_loop_entered" : "restart_scheduled";
  const body = { type, attempt: ended.restarts + 1, nextStartTime } as const;
  const plan = delayMs === 0 ? "restarts at once" : `restarts in ${(delayMs / 1_000).toFixed(1)} s`;
  return {
    status,
    events: [{ body, message: inCrashLoop ? `crash loop: ${plan}` : plan }],
    effects: [delayMs === 0 && want.waitingFor.length === 0 ? { kind: "launch" } : { kind: "wake", at: nextStartTime }],
  };
}

function completed(ended: ServiceStatus, moment: Moment): Step {
  const status = atRest({ ...ended, state: "completed", reason: "", message: "" }, moment);
  const message = "ended with code 0; its policy asks for no restart";
  return { status, events: [{ body: { type: "service_completed" }, message }], effects: [] };
}

function gaveUp(ended: ServiceStatus, reason: GiveUpReason, cause: string, moment: Moment): Step {
  const message = reason === "MAX_RESTARTS" ? `gave up after ${ended.failures - 1} restarts in a row: ${cause}` : cause;
  const status = atRest({ ...ended, state: "failed", reason, message }, moment);
  return { status, events: [{ body: { type: "service_failed" }, message }], effects: [] };
}

/** Nobody knows what they still do, so nothing else is started before they are gone. */
function stopFailed(
  status: ServiceStatus,
  { instanceId, survivors }: { readonly instanceId: string; readonly survivors: readonly number[] },
  { now }: Moment,
): Step {
  if (!liveStates.has(status.state)) {
    return isSide(status, instanceId) ? act(status, { kind: "stop", instanceId, routeFirst: false }) : same(status);
  }
  const message = `these processes could not be ended: ${survivors.join(", ")}`;
  const again: Effect = { kind: "wake", at: new Date(now.getTime() + stopAgainMs) };
  if (status.reason === stopFailedReason && status.message === message) return act(status, again);
  const told = { events: [{ body: { type: "service_stop_failed" }, message }], effects: [again] } as const;
  // An update that cannot get rid of the instance before leaves the new one at its work.
  if (isSide(status, instanceId) && status.state === "running") {
    return { ...told, status: { ...status, reason: stopFailedReason, message } };
  }
  const next: ServiceStatus = {
    ...status,
    state: "stop_failed",
    ready: false,
    reason: stopFailedReason,
    message,
    published: false,
    transitionTime: now,
  };
  return { ...told, status: next };
}

function outputAtRisk(status: ServiceStatus, risk: string, { now }: Moment): Step {
  const next = withCondition(status, "output_at_risk", risk, now);
  return { status: next, events: conditionEvents(status, next), effects: [] };
}

/** No process, as wished; what is left beside the current one ends first. */
function rest(status: ServiceStatus, moment: Moment): Step {
  if (status.state === "stopped") return same(status);
  if (sidesOf(status).length > 0) return endSides(status, moment);
  const next = atRest({ ...status, state: "stopped", reason: "", message: "" }, moment);
  return { status: next, events: [{ body: { type: "service_stopped" }, message: "stopped" }], effects: [] };
}

function endSides(status: ServiceStatus, { now }: Moment): Step {
  const { status: next, effects } = stopSides(status);
  const asked = sidesOf(status).filter((side) => !side.isStopping);
  return {
    status: {
      ...next,
      state: "stopping",
      published: false,
      nextStartTime: undefined,
      waitingFor: [],
      transitionTime: now,
    },
    events: asked.map((side) => told("instance_stopping", side, "stopped as asked")),
    effects,
  };
}

function atRest(status: ServiceStatus, { now }: Moment): ServiceStatus {
  return { ...status, ready: false, published: false, nextStartTime: undefined, waitingFor: [], transitionTime: now };
}

function reasonOf(exit: Ending): string {
  switch (exit.reason) {
    case "exited":
      return "EXITED";
    case "signaled":
      return "SIGNALED";
    case "spawn_failed":
      return "SPAWN_FAILED";
    case "lost":
      return "LOST";
    case "oom_killed":
      return "OOM_KILLED";
  }
}
