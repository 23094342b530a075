import type { EventBody } from "./event.ts";
import { type Judgement, judgeEnd } from "./restart-rule.ts";
import type { ManagedSpec, Wish } from "./service.ts";
import { type InstanceExit, liveStates, type ServiceStatus } from "./status.ts";

/** What happens to a managed service. */
export type Input =
  /** Look again: the wish may have changed, or a start may happen now. */
  | { readonly kind: "look" }
  /** A delay that was asked for with `wake` is over, whatever the wall clock says meanwhile. */
  | { readonly kind: "due" }
  /** The intent to start an instance is about to be recorded. */
  | { readonly kind: "launching"; readonly instanceId: string; readonly url: string | undefined }
  /** Its command runs. */
  | { readonly kind: "launched"; readonly pid: number | undefined }
  /** It outlived the server that started it. */
  | { readonly kind: "adopted"; readonly pid: number | undefined }
  | { readonly kind: "ready" }
  | { readonly kind: "unready"; readonly message: string }
  /** It did not become ready in time. */
  | { readonly kind: "readiness_missed"; readonly message: string }
  /** It ended and nothing is left of it. */
  | { readonly kind: "exited"; readonly exit: Ending }
  /** The server ended between the intent and the start: nothing of the service ran, so it is no failure of the service. */
  | { readonly kind: "never_ran"; readonly exit: Ending }
  /** Something of it could not be ended. */
  | { readonly kind: "stop_failed"; readonly survivors: readonly number[] };

/** How an instance ended; whether that was asked for, the state tells. */
export type Ending = Omit<InstanceExit, "requested">;

/** What is wanted, read anew at each step: commands are never queued, the newest wish is the one that counts. */
export interface Want {
  readonly wish: Wish;
  readonly generation: number;
  readonly spec: ManagedSpec;
}

/** Time and chance. */
export interface Moment {
  readonly now: Date;
  /** 0 to 1, for the jitter. */
  readonly random: number;
}

export type Effect =
  /** Start an instance; the intent comes back as `launching`. Asked for again at each look until then. */
  | { readonly kind: "launch" }
  /** End the instance and everything it started; its end comes back as `exited` or `stop_failed`. */
  | { readonly kind: "stop"; readonly routeFirst: boolean }
  /** Say `due` then; the newest one counts. */
  | { readonly kind: "wake"; readonly at: Date };

export interface Step {
  readonly status: ServiceStatus;
  readonly events: readonly { readonly body: EventBody; readonly message: string }[];
  readonly effects: readonly Effect[];
}

const stopAgainMs = 30_000;

/** Every rule about when a process starts, stops or is given up. Pure: no clock, no chance, no process table. */
export function step(status: ServiceStatus, input: Input, want: Want, moment: Moment): Step {
  switch (input.kind) {
    case "look":
      return settle(status, want, moment);
    case "due":
      return due(status, want, moment);
    case "launching":
      return launching(status, input, want, moment);
    case "launched":
      return running(status, "instance_started", input.pid, want, moment);
    case "adopted":
      return running(status, "instance_adopted", input.pid, want, moment);
    case "ready":
      return becameReady(status, moment);
    case "unready":
      return stoppedAnswering(status, input.message);
    case "readiness_missed":
      return missedReadiness(status, input.message, moment);
    case "exited":
      return exited(status, input.exit, want, moment);
    case "never_ran":
      return neverRan(status, input.exit, want, moment);
    case "stop_failed":
      return stopFailed(status, input.survivors, moment);
  }
}

/** What to do about the wish as things stand. Doing it twice changes nothing. */
function settle(status: ServiceStatus, want: Want, moment: Moment): Step {
  switch (status.state) {
    case "starting":
    case "running":
      return isObsolete(status, want) ? beginStop(status, want, moment) : same(status);
    case "stopping":
    case "stop_failed":
    case "external":
      return same(status);
    case "pending":
    case "stopped":
      return want.wish === "running" ? act(status, { kind: "launch" }) : rest(status, moment);
    case "completed":
    case "failed":
      if (want.wish !== "running") return rest(status, moment);
      return isObsolete(status, want) ? act(status, { kind: "launch" }) : same(status);
    case "backing_off":
    case "crash_loop":
      if (want.wish !== "running") return rest(status, moment);
      return act(status, isObsolete(status, want) ? { kind: "launch" } : launchOrWait(status, moment));
  }
}

/** Whether the instance is not what is wanted any more. */
function isObsolete(status: ServiceStatus, want: Want): boolean {
  return want.wish !== "running" || want.generation > status.observedGeneration;
}

function launchOrWait({ nextStartTime }: ServiceStatus, { now }: Moment): Effect {
  return nextStartTime === undefined || nextStartTime <= now ? { kind: "launch" } : { kind: "wake", at: nextStartTime };
}

function due(status: ServiceStatus, want: Want, moment: Moment): Step {
  switch (status.state) {
    case "backing_off":
    case "crash_loop":
      return want.wish === "running" ? act(status, { kind: "launch" }) : rest(status, moment);
    case "stop_failed":
      return act(status, { kind: "stop", routeFirst: false });
    case "pending":
    case "starting":
    case "running":
    case "stopping":
    case "stopped":
    case "completed":
    case "failed":
    case "external":
      return settle(status, want, moment);
  }
}

function launching(
  status: ServiceStatus,
  input: { instanceId: string; url: string | undefined },
  want: Want,
  { now }: Moment,
): Step {
  // A client's start, restart or change is a new beginning; a restart of ours is counted.
  const fresh = want.generation > status.observedGeneration;
  const again = status.state === "backing_off" || status.state === "crash_loop";
  const restarts = fresh ? 0 : status.restarts + (again ? 1 : 0);
  const next: ServiceStatus = {
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
    transitionTime: now,
  };
  const message = restarts === 0 ? "starting" : `restarting, ${restarts} since the last change`;
  return {
    status: next,
    events: [{ body: { type: "instance_starting", instanceId: input.instanceId }, message }],
    effects: [],
  };
}

function running(
  status: ServiceStatus,
  type: "instance_started" | "instance_adopted",
  pid: number | undefined,
  want: Want,
  moment: Moment,
): Step {
  if (!liveStates.has(status.state)) return same(status);
  const process = pid === undefined ? "its process" : `process ${pid}`;
  const message =
    type === "instance_started"
      ? `runs as ${process}`
      : `${process} outlived the server that started it and is taken over`;
  const event = { body: { type, instanceId: status.instanceId ?? "", pid }, message };
  const then = settle({ ...status, pid }, want, moment);
  return { ...then, events: [event, ...then.events] };
}

function becameReady(status: ServiceStatus, { now }: Moment): Step {
  if ((status.state !== "starting" && status.state !== "running") || status.ready) return same(status);
  const first = status.state === "starting";
  const next: ServiceStatus = {
    ...status,
    state: "running",
    ready: true,
    reason: "",
    message: "",
    readyTime: status.readyTime ?? now,
    published: true,
    transitionTime: first ? now : status.transitionTime,
  };
  return { status: next, events: [told("instance_ready", status, first ? "ready" : "ready again")], effects: [] };
}

function stoppedAnswering(status: ServiceStatus, message: string): Step {
  if (status.state !== "running" || !status.ready) return same(status);
  const next: ServiceStatus = { ...status, ready: false, reason: "UNREADY", message };
  return { status: next, events: [told("instance_unready", status, message)], effects: [] };
}

const readinessTimeout = "READINESS_TIMEOUT";

function missedReadiness(status: ServiceStatus, message: string, moment: Moment): Step {
  if (status.state !== "starting") return same(status);
  const { status: next, ...rest } = stopping(status, `stopped: ${message}`, false, moment);
  return { ...rest, status: { ...next, reason: readinessTimeout, message } };
}

/** A stop takes the route out first; a restart leaves it, because the next process is a moment away. */
function beginStop(status: ServiceStatus, want: Want, moment: Moment): Step {
  if (want.wish === "running") return stopping(status, "stopped to start anew", false, moment);
  const message = want.wish === "deleted" ? "stopped: the service is deleted" : "stopped as asked";
  return stopping({ ...status, published: false }, message, true, moment);
}

function stopping(status: ServiceStatus, message: string, routeFirst: boolean, { now }: Moment): Step {
  return {
    status: { ...status, state: "stopping", ready: false, reason: "", message: "", transitionTime: now },
    events: [told("instance_stopping", status, message)],
    effects: [{ kind: "stop", routeFirst }],
  };
}

function exited(status: ServiceStatus, ending: Ending, want: Want, moment: Moment): Step {
  if (!liveStates.has(status.state)) return same(status);
  const requested = status.state === "stopping" || status.state === "stop_failed";
  const missed = status.reason === readinessTimeout;
  const { ended, event } = end(status, { ...ending, requested });
  const asWanted = (requested && !missed) || isObsolete(status, want);
  const then = asWanted
    ? afterEnd(ended, want, moment)
    : afterFailure(ended, status, { ...ending, requested }, want, moment);
  return { ...then, events: [event, ...then.events] };
}

function neverRan(status: ServiceStatus, ending: Ending, want: Want, moment: Moment): Step {
  if (!liveStates.has(status.state)) return same(status);
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
  return act({ ...ended, state: "pending", reason: "", message: "", transitionTime: moment.now }, { kind: "launch" });
}

/** It ended and nobody had asked for that. */
function afterFailure(
  ended: ServiceStatus,
  before: ServiceStatus,
  exit: InstanceExit,
  want: Want,
  moment: Moment,
): Step {
  const missedReadiness = before.reason === readinessTimeout;
  const message = missedReadiness ? before.message : describeExit(exit);
  const judgement = judgeEnd(before, { exit, missedReadiness, ...moment }, want.spec.restartPolicy);
  switch (judgement.kind) {
    case "complete":
      return completed(ended, moment);
    case "give_up":
      return gaveUp({ ...ended, failures: judgement.failures }, judgement.reason, message, moment);
    case "restart":
      return backOff(ended, judgement, missedReadiness ? readinessTimeout : reasonOf(exit), message, moment);
  }
}

function backOff(
  ended: ServiceStatus,
  judgement: Judgement & { kind: "restart" },
  reason: string,
  message: string,
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
    effects: [{ kind: "wake", at: nextStartTime }],
  };
}

function completed(ended: ServiceStatus, moment: Moment): Step {
  const status = atRest({ ...ended, state: "completed", reason: "", message: "" }, moment);
  const message = "ended with code 0; its policy asks for no restart";
  return { status, events: [{ body: { type: "service_completed" }, message }], effects: [] };
}

function gaveUp(ended: ServiceStatus, reason: "EXITED" | "MAX_RESTARTS", cause: string, moment: Moment): Step {
  const message = reason === "EXITED" ? cause : `gave up after ${ended.failures - 1} restarts in a row: ${cause}`;
  const status = atRest({ ...ended, state: "failed", reason, message }, moment);
  return { status, events: [{ body: { type: "service_failed" }, message }], effects: [] };
}

/** Nobody knows what they still do, so nothing else is started before they are gone. */
function stopFailed(status: ServiceStatus, survivors: readonly number[], { now }: Moment): Step {
  if (!liveStates.has(status.state)) return same(status);
  const message = `these processes could not be ended: ${survivors.join(", ")}`;
  const again: Effect = { kind: "wake", at: new Date(now.getTime() + stopAgainMs) };
  if (status.state === "stop_failed" && status.message === message) return act(status, again);
  const next: ServiceStatus = {
    ...status,
    state: "stop_failed",
    ready: false,
    reason: "STOP_FAILED",
    message,
    published: false,
    transitionTime: now,
  };
  return { status: next, events: [{ body: { type: "service_stop_failed" }, message }], effects: [again] };
}

/** No process, as wished. */
function rest(status: ServiceStatus, moment: Moment): Step {
  if (status.state === "stopped") return same(status);
  const next = atRest({ ...status, state: "stopped", reason: "", message: "" }, moment);
  return { status: next, events: [{ body: { type: "service_stopped" }, message: "stopped" }], effects: [] };
}

function atRest(status: ServiceStatus, { now }: Moment): ServiceStatus {
  return { ...status, ready: false, published: false, nextStartTime: undefined, transitionTime: now };
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
  }
}

/** How a process ended, in words. */
export function describeExit(exit: Ending): string {
  switch (exit.reason) {
    case "exited":
      return `exited with code ${exit.code ?? "?"}`;
    case "signaled":
      return `ended by ${exit.signal ?? "a signal"}`;
    case "spawn_failed":
      return `could not be started: ${exit.message}`;
    case "lost":
      return `is gone: ${exit.message}`;
  }
}

function told(
  type: "instance_ready" | "instance_unready" | "instance_stopping",
  { instanceId = "", pid }: ServiceStatus,
  message: string,
): Step["events"][number] {
  return { body: { type, instanceId, pid }, message };
}

function same(status: ServiceStatus): Step {
  return { status, events: [], effects: [] };
}

function act(status: ServiceStatus, effect: Effect): Step {
  return { status, events: [], effects: [effect] };
}
