import { create, type JsonObject, type JsonValue } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import * as proto from "../../gen/steward/v1/service_pb.ts";
import type { DependencyCondition } from "../domain/dependency.ts";
import { invalid } from "../domain/errors.ts";
import {
  type ManagedSpec,
  type RestartPolicy,
  type ServiceSpec,
  stopSignals,
  type UpdateStrategy,
} from "../domain/service.ts";
import type { ManagedSpecInput, ServiceSpecInput } from "../domain/service-spec.ts";
import { limitsFromProto, limitsToProto } from "./convert-limits.ts";
import { probeFromProto, probeToProto } from "./convert-probe.ts";
import { durationFromProto } from "./convert-time.ts";
import { invertTable } from "./enum-table.ts";

/** What a client wrote, unchecked; an absent spec is an empty one. Throws invalid_argument for numbers in `info` that JSON does not have. */
export function specFromProto(spec: proto.ServiceSpec | undefined, field: string): ServiceSpecInput {
  if (spec === undefined) return {};
  if (spec.info !== undefined && !isJson(spec.info)) {
    throw invalid({ field: `${field}.info`, description: "must hold finite numbers only: JSON has no others" });
  }
  return {
    kind: kindFromProto(spec.kind),
    admin: spec.admin,
    url: spec.url,
    apiToken: spec.apiToken === "" ? undefined : spec.apiToken,
    oauthClientId: spec.oauthClientId,
    oauthNoConfirm: spec.oauthNoConfirm,
    info: spec.info,
    display: spec.display,
    labels: spec.labels,
  };
}

/** A spec with every default filled in. Never the api_token; the environment only for those who may read it. */
export function specToProto(spec: ServiceSpec, { environment }: { environment: boolean }): proto.ServiceSpec {
  return create(proto.ServiceSpecSchema, {
    kind:
      spec.kind.type === "managed"
        ? { case: "managed", value: managedToProto(spec.kind, environment) }
        : { case: "external", value: { probe: probeToProto(spec.kind.probe) } },
    admin: spec.admin,
    url: spec.url ?? "",
    apiTokenSet: spec.apiTokenSet,
    oauthClientId: spec.oauthClientId,
    oauthNoConfirm: spec.oauthNoConfirm,
    // A Struct is made of the same JSON values, only not read-only.
    info: spec.info as JsonObject,
    display: spec.display,
    labels: { ...spec.labels },
  });
}

function isJson(value: JsonValue): boolean {
  if (typeof value === "number") return Number.isFinite(value);
  if (typeof value !== "object" || value === null) return true;
  return Object.values(value).every(isJson);
}

function kindFromProto(kind: proto.ServiceSpec["kind"]): ServiceSpecInput["kind"] {
  switch (kind.case) {
    case "managed":
      return managedFromProto(kind.value);
    case "external":
      return { type: "external", probe: probeFromProto(kind.value.probe) };
    case undefined:
      return undefined;
  }
}

function managedFromProto(managed: proto.ManagedSpec): ManagedSpecInput {
  return {
    type: "managed",
    command: managed.command,
    environment: managed.environment,
    cwd: managed.cwd,
    user: managed.user,
    restartPolicy: managed.restartPolicy === undefined ? undefined : policyFromProto(managed.restartPolicy),
    stopGraceMs: durationFromProto(managed.stopGrace),
    readinessTimeoutMs: durationFromProto(managed.readinessTimeout),
    minReadyMs: durationFromProto(managed.minReady),
    stopSignal: stopSignals.find((signal) => signal === managed.stopSignal),
    drainMs: durationFromProto(managed.drain),
    limits: managed.limits === undefined ? undefined : limitsFromProto(managed.limits),
    startupProbe: probeFromProto(managed.startupProbe),
    readinessProbe: probeFromProto(managed.readinessProbe),
    livenessProbe: probeFromProto(managed.livenessProbe),
    dependsOn: managed.dependsOn.map(({ service, condition }) => ({
      service,
      condition: conditionOf.get(condition) ?? "ready",
    })),
    updateStrategy: strategyOf.get(managed.updateStrategy),
  };
}

function managedToProto(managed: ManagedSpec, environment: boolean): proto.ManagedSpec {
  return create(proto.ManagedSpecSchema, {
    command: [...managed.command],
    environment: environment ? { ...managed.environment } : {},
    cwd: managed.cwd ?? "",
    user: managed.user ?? "",
    restartPolicy: policyToProto(managed.restartPolicy),
    stopGrace: durationFromMs(managed.stopGraceMs),
    readinessTimeout: durationFromMs(managed.readinessTimeoutMs),
    minReady: durationFromMs(managed.minReadyMs),
    stopSignal: managed.stopSignal,
    drain: managed.drainMs === undefined ? undefined : durationFromMs(managed.drainMs),
    limits: limitsToProto(managed.limits),
    startupProbe: probeToProto(managed.startupProbe),
    readinessProbe: probeToProto(managed.readinessProbe),
    livenessProbe: probeToProto(managed.livenessProbe),
    dependsOn: managed.dependsOn.map(({ service, condition }) => ({
      service,
      condition: dependencyConditions[condition],
    })),
    updateStrategy: updateStrategies[managed.updateStrategy],
  });
}

function policyFromProto(policy: proto.RestartPolicy): NonNullable<ManagedSpecInput["restartPolicy"]> {
  return {
    mode: modeOf.get(policy.mode),
    baseDelayMs: durationFromProto(policy.baseDelay),
    maxDelayMs: durationFromProto(policy.maxDelay),
    resetAfterMs: durationFromProto(policy.resetAfter),
    maxRestarts: policy.maxRestarts,
    multiplier: policy.multiplier,
    immediateAfterMs: durationFromProto(policy.immediateAfter),
    noRestartExitCodes: policy.noRestartExitCodes,
    crashLoopExits: policy.crashLoopExits,
    crashLoopWindowMs: durationFromProto(policy.crashLoopWindow),
  };
}

function policyToProto(policy: RestartPolicy): proto.RestartPolicy {
  return create(proto.RestartPolicySchema, {
    mode: restartModes[policy.mode],
    baseDelay: durationFromMs(policy.baseDelayMs),
    maxDelay: durationFromMs(policy.maxDelayMs),
    resetAfter: durationFromMs(policy.resetAfterMs),
    maxRestarts: policy.maxRestarts,
    multiplier: policy.multiplier,
    immediateAfter: durationFromMs(policy.immediateAfterMs),
    noRestartExitCodes: [...policy.noRestartExitCodes],
    crashLoopExits: policy.crashLoopExits,
    crashLoopWindow: durationFromMs(policy.crashLoopWindowMs),
  });
}

export const restartModes: Readonly<Record<RestartPolicy["mode"], proto.RestartMode>> = {
  always: proto.RestartMode.ALWAYS,
  on_failure: proto.RestartMode.ON_FAILURE,
  never: proto.RestartMode.NEVER,
};

const modeOf = invertTable(restartModes);

export const dependencyConditions: Readonly<Record<DependencyCondition, proto.DependencyCondition>> = {
  started: proto.DependencyCondition.STARTED,
  ready: proto.DependencyCondition.READY,
  completed: proto.DependencyCondition.COMPLETED,
};

const conditionOf = invertTable(dependencyConditions);

export const updateStrategies: Readonly<Record<UpdateStrategy, proto.UpdateStrategy>> = {
  recreate: proto.UpdateStrategy.RECREATE,
  rolling: proto.UpdateStrategy.ROLLING,
};

const strategyOf = invertTable(updateStrategies);
