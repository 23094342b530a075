import type { ProbeRole } from "./probe.ts";
import { isManaged, type Service } from "./service.ts";
import type { ServiceStatus } from "./status.ts";
import { describeExit } from "./step.ts";

/** One link in the chain of causes: each is why the one before is so. */
export interface Cause {
  readonly kind: CauseKind;
  /** The service that it is of: the one asked for, or one that it depends on. */
  readonly service: string;
  readonly message: string;
  /** Since when, or of a back-off when it is over. */
  readonly time: Date | undefined;
}

export type CauseKind =
  | "wish"
  | "state"
  | "dependency"
  | "back_off"
  | "last_exit"
  | "probe"
  | "policy"
  | "stop_failed"
  | "condition"
  | "route"
  | "proxy"
  | "restart_budget";

/** One answer of a probe. */
export interface ProbeResult {
  readonly role: ProbeRole;
  readonly success: boolean;
  readonly message: string;
  readonly time: Date;
  readonly durationMs: number;
}

/** What else is known when a service is explained. */
export interface Surroundings {
  readonly find: (name: string) => Service | undefined;
  /** Whether routes are kept at all. */
  readonly isRouted: boolean;
  /** Starts that wait for their turn on this node. */
  readonly queuedStarts: number;
  /** Newest first. */
  readonly probeResults: readonly ProbeResult[];
}

export interface Explanation {
  readonly well: boolean;
  readonly summary: string;
  readonly causes: readonly Cause[];
}

/** Why a service is not running, not ready or not routed; pure, from what is recorded and what its probes last said. */
export function explain(service: Service, around: Surroundings): Explanation {
  const causes = [
    wishOf(service),
    ...processCauses(service, around, new Set([service.uid])),
    ...conditionCauses(service),
    ...routeCauses(service, around),
  ];
  const well = causes.length === 1;
  return { well, summary: well ? `${service.name} is as wished` : summaryOf(service, causes), causes };
}

function wishOf(service: Service): Cause {
  const message = isManaged(service) ? `is wished ${service.wish}` : "is managed by somebody else";
  return causeOf(service, "wish", message, service.updateTime);
}

function processCauses(service: Service, around: Surroundings, seen: ReadonlySet<string>): Cause[] {
  if (!isManaged(service)) return externalCauses(service, around);
  return service.wish === "running" ? whyNotReady(service, around, seen) : whyNotGone(service);
}

function externalCauses(service: Service, { probeResults }: Surroundings): Cause[] {
  const { ready, reason, message, readyTransitionTime } = service.status;
  if (ready || reason === "") return [];
  return [
    causeOf(service, "state", `was found down: ${message}`, readyTransitionTime),
    ...lastProbe(service, probeResults),
  ];
}

/** It is wished stopped or deleted. */
function whyNotGone(service: Service): Cause[] {
  const { state, message, transitionTime } = service.status;
  if (state === "stopped" || state === "completed" || state === "failed") return [];
  if (state === "stop_failed") return [causeOf(service, "stop_failed", message, transitionTime)];
  return [causeOf(service, "state", `is ${wordOf(state)}`, transitionTime)];
}

function whyNotReady(service: Service, around: Surroundings, seen: ReadonlySet<string>): Cause[] {
  const { status } = service;
  const state = causeOf(service, "state", describeState(status), status.transitionTime);
  switch (status.state) {
    case "running":
      return status.ready ? whyNotNewest(service, around, seen) : [state, ...lastProbe(service, around.probeResults)];
    case "starting":
      return [state, ...lastProbe(service, around.probeResults), ...lastExit(service)];
    case "pending":
      return [state, ...waiting(service, around, seen)];
    case "backing_off":
    case "crash_loop": {
      const when = status.nextStartTime?.toISOString() ?? "soon";
      return [
        state,
        causeOf(service, "back_off", `the next start is due at ${when}`, status.nextStartTime),
        ...lastExit(service),
      ];
    }
    case "failed":
      return [state, causeOf(service, "policy", policyOf(status), status.transitionTime), ...lastExit(service)];
    case "completed":
      return [
        state,
        causeOf(service, "policy", "it ended with success and its policy asks for no restart", status.transitionTime),
      ];
    case "stop_failed":
      return [causeOf(service, "stop_failed", status.message, status.transitionTime)];
    case "stopping":
    case "stopped":
    case "external":
      return [state];
  }
}

/** It is ready, but not as the newest change wants it. */
function whyNotNewest(service: Service, around: Surroundings, seen: ReadonlySet<string>): Cause[] {
  const { status, generation } = service;
  if (status.observedGeneration >= generation || status.failedGeneration >= generation) return [];
  const message = `runs generation ${status.observedGeneration}, generation ${generation} is wished`;
  return [causeOf(service, "state", message, status.transitionTime), ...waiting(service, around, seen)];
}

function waiting(service: Service, around: Surroundings, seen: ReadonlySet<string>): Cause[] {
  const { waitingFor } = service.status;
  if (waitingFor.length === 0 && around.queuedStarts > 0) {
    return [
      causeOf(service, "restart_budget", `${around.queuedStarts} starts wait for their turn on this node`, undefined),
    ];
  }
  return waitingFor.flatMap(({ service: name, condition }) => {
    const dependency = around.find(name);
    const is = dependency === undefined ? "does not exist" : describeState(dependency.status);
    const cause = causeOf(
      service,
      "dependency",
      `waits for ${name} to be ${condition}: it ${is}`,
      dependency?.status.transitionTime,
    );
    if (dependency === undefined || seen.has(dependency.uid)) return [cause];
    // What is known of the probes is of the service that was asked for.
    const deeper = { ...around, probeResults: [] };
    return [cause, ...processCauses(dependency, deeper, new Set([...seen, dependency.uid]))];
  });
}

function conditionCauses(service: Service): Cause[] {
  return service.status.conditions.map(({ message, since }) => causeOf(service, "condition", message, since));
}

function routeCauses(service: Service, { isRouted }: Surroundings): Cause[] {
  const { route, spec, status } = service;
  if (!isRouted || spec.url === undefined || service.wish !== "running") return [];
  if (route === undefined) {
    return status.published ? [causeOf(service, "route", "its route is not recorded yet", undefined)] : [];
  }
  if (route.state === "programmed") return [];
  const cause = causeOf(service, "route", `its route is ${route.state}`, route.transitionTime);
  return route.reason === ""
    ? [cause]
    : [cause, causeOf(service, "proxy", `${route.reason}: ${route.message}`, route.transitionTime)];
}

function lastExit(service: Service): Cause[] {
  const { lastExit: exit } = service.status;
  return exit === undefined ? [] : [causeOf(service, "last_exit", `its last process ${describeExit(exit)}`, exit.time)];
}

function lastProbe(service: Service, results: readonly ProbeResult[]): Cause[] {
  const failed = results.find(({ success }) => !success);
  return failed === undefined
    ? []
    : [causeOf(service, "probe", `its ${failed.role} probe says: ${failed.message}`, failed.time)];
}

function policyOf({ reason }: ServiceStatus): string {
  switch (reason) {
    case "MAX_RESTARTS":
      return "it used up its max_restarts";
    case "NO_RESTART_EXIT_CODE":
      return "its exit code is one of no_restart_exit_codes";
    default:
      return "its restart policy allows no further start";
  }
}

function describeState({ state, ready, message }: ServiceStatus): string {
  const word = state === "running" ? `running, ${ready ? "ready" : "not ready"}` : wordOf(state);
  return message === "" ? `is ${word}` : `is ${word}: ${message}`;
}

function wordOf(state: ServiceStatus["state"]): string {
  return state.replaceAll("_", " ");
}

function summaryOf(service: Service, causes: readonly Cause[]): string {
  const [, second, ...rest] = causes;
  const last = rest.at(-1);
  const because =
    last === undefined || last === second
      ? ""
      : `, because ${last.service === service.name ? "" : `${last.service}: `}${last.message}`;
  return `${service.name} ${second?.message ?? ""}${because}`;
}

function causeOf({ name }: Service, kind: CauseKind, message: string, time: Date | undefined): Cause {
  return { kind, service: name, message, time };
}
