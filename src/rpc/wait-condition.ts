import type { WaitCondition as WaitConditionMessage } from "../../gen/steward/v1/supervisor_pb.ts";
import { WaitCondition as Conditions } from "../../gen/steward/v1/supervisor_pb.ts";
import { routeFor } from "../domain/route-plan.ts";
import { isManaged, type Service } from "../domain/service.ts";
import { endedStates } from "../domain/status.ts";
import { invertTable } from "./enum-table.ts";

/** What can be waited for of a service. */
export type WaitCondition = "ready" | "stopped" | "deleted" | "ended";

/** hopeless: it cannot come to hold any more unless somebody acts. */
export type Verdict = "holds" | "not_yet" | "hopeless";

export interface WaitRules {
  /** Whether a proxy is there to put routes into; without one no route is waited for. */
  readonly routed: boolean;
}

/** Whether a condition holds of a service as it is; undefined is one that is gone. */
export function judge(condition: WaitCondition, service: Service | undefined, rules: WaitRules): Verdict {
  if (service === undefined) return condition === "ready" ? "hopeless" : "holds";
  switch (condition) {
    case "ready":
      return judgeReady(service, rules);
    case "stopped":
      return judgeStopped(service);
    case "ended":
      return judgeEnded(service);
    case "deleted":
      return "not_yet";
  }
}

function judgeReady(service: Service, rules: WaitRules): Verdict {
  if (service.wish !== "running") return "hopeless";
  if (!isManaged(service)) return routeInPlace(service, rules) ? "holds" : "not_yet";
  if (restsForGood(service)) return "hopeless";
  const { state, ready, observedGeneration, failedGeneration } = service.status;
  if (failedGeneration >= service.generation) return "hopeless";
  const isReady = state === "running" && ready && observedGeneration >= service.generation;
  return isReady && routeInPlace(service, rules) ? "holds" : "not_yet";
}

function judgeStopped(service: Service): Verdict {
  if (!isManaged(service)) return "hopeless";
  return endedStates.has(service.status.state) && service.route === undefined ? "holds" : "not_yet";
}

function judgeEnded(service: Service): Verdict {
  if (!isManaged(service)) return "hopeless";
  return restsForGood(service) ? "holds" : "not_yet";
}

/** Nothing runs, and nothing is on its way: a new generation that was not seen yet would be. */
function restsForGood({ wish, generation, status }: Service): boolean {
  return endedStates.has(status.state) && (wish !== "running" || status.observedGeneration >= generation);
}

/** Right after a change the route is still the one that was wanted before, and in place. */
function routeInPlace(service: Service, { routed }: WaitRules): boolean {
  const { spec, route } = service;
  if (spec.url === undefined || !routed) return true;
  if (route === undefined || route.target !== routeFor(service)?.target) return false;
  return route.state === "programmed" && route.programmedGeneration >= route.generation;
}

export const waitConditions: Readonly<Record<WaitCondition, WaitConditionMessage>> = {
  ready: Conditions.READY,
  stopped: Conditions.STOPPED,
  deleted: Conditions.DELETED,
  ended: Conditions.ENDED,
};

const conditionOf = invertTable(waitConditions);

export function conditionFromProto(condition: WaitConditionMessage): WaitCondition | undefined {
  return conditionOf.get(condition);
}
