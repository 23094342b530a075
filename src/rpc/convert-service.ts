import { create } from "@bufbuild/protobuf";
import * as proto from "../../gen/steward/v1/service_pb.ts";
import { may, type Principal } from "../domain/principal.ts";
import { etagOf, type Service, type Wish } from "../domain/service.ts";
import type { Condition, ConditionType, ServiceState, ServiceStatus, SideInstance } from "../domain/status.ts";
import { exitToProto } from "./convert-instance.ts";
import { routeToProto } from "./convert-route.ts";
import { dependencyConditions, specToProto } from "./convert-spec.ts";
import { timeToProto } from "./convert-time.ts";

/** A service as this principal may see it: its environment only with read:services:environment. */
export function serviceFor(principal: Principal, service: Service): proto.Service {
  return serviceToProto(service, { environment: may(principal, "read:services:environment", service.name) });
}

export function serviceToProto(service: Service, shown: { environment: boolean }): proto.Service {
  return create(proto.ServiceSchema, {
    name: service.name,
    uid: service.uid,
    spec: specToProto(service.spec, shown),
    wish: wishes[service.wish],
    generation: BigInt(service.generation),
    status: statusToProto(service),
    revision: service.revision,
    // Of one that is only validated there is nothing to match yet.
    etag: service.uid === "" ? "" : etagOf(service),
    createTime: timeToProto(service.createTime),
    updateTime: timeToProto(service.updateTime),
    setName: service.setName,
    resets: BigInt(service.resets),
  });
}

function statusToProto({ status, route }: { status: ServiceStatus; route: Service["route"] }): proto.ServiceStatus {
  return create(proto.ServiceStatusSchema, {
    state: serviceStates[status.state],
    ready: status.ready,
    reason: status.reason,
    message: status.message,
    observedGeneration: BigInt(status.observedGeneration),
    instanceId: status.instanceId ?? "",
    pid: status.pid ?? 0,
    startTime: timeToProto(status.startTime),
    readyTime: timeToProto(status.readyTime),
    lastExit: status.lastExit === undefined ? undefined : exitToProto(status.lastExit),
    restarts: status.restarts,
    nextStartTime: timeToProto(status.nextStartTime),
    url: status.url ?? "",
    route: route === undefined ? undefined : routeToProto(route),
    transitionTime: timeToProto(status.transitionTime),
    readyTransitionTime: timeToProto(status.readyTransitionTime),
    conditions: status.conditions.map(conditionToProto),
    waitingFor: status.waitingFor.map(({ service, condition, message }) => ({
      service,
      condition: dependencyConditions[condition],
      message,
    })),
    replacement: sideToProto(status.replacement),
    retiring: sideToProto(status.retiring),
  });
}

export function conditionToProto({ type, message, since }: Condition): proto.Condition {
  return create(proto.ConditionSchema, { type: conditionTypes[type], message, since: timeToProto(since) });
}

function sideToProto(side: SideInstance | undefined): proto.SideInstance | undefined {
  if (side === undefined) return undefined;
  return create(proto.SideInstanceSchema, {
    instanceId: side.instanceId,
    pid: side.pid ?? 0,
    generation: BigInt(side.generation),
    url: side.url ?? "",
    startTime: timeToProto(side.startTime),
  });
}

export const conditionTypes: Readonly<Record<ConditionType, proto.ConditionType>> = {
  limits_not_enforced: proto.ConditionType.LIMITS_NOT_ENFORCED,
  update_failed: proto.ConditionType.UPDATE_FAILED,
  output_at_risk: proto.ConditionType.OUTPUT_AT_RISK,
};

export const wishes: Readonly<Record<Wish, proto.Wish>> = {
  running: proto.Wish.RUNNING,
  stopped: proto.Wish.STOPPED,
  deleted: proto.Wish.DELETED,
};

export const serviceStates: Readonly<Record<ServiceState, proto.ServiceState>> = {
  pending: proto.ServiceState.PENDING,
  starting: proto.ServiceState.STARTING,
  running: proto.ServiceState.RUNNING,
  backing_off: proto.ServiceState.BACKING_OFF,
  crash_loop: proto.ServiceState.CRASH_LOOP,
  stopping: proto.ServiceState.STOPPING,
  stopped: proto.ServiceState.STOPPED,
  completed: proto.ServiceState.COMPLETED,
  failed: proto.ServiceState.FAILED,
  stop_failed: proto.ServiceState.STOP_FAILED,
  external: proto.ServiceState.EXTERNAL,
};
