import { defaultProbe, type Probe } from "./probe.ts";
import type { ServiceSpec } from "./service.ts";
import { blankStatus, type ServiceStatus } from "./status.ts";
import type { Step } from "./step.ts";

/** The question to a service that somebody else runs; undefined: it is not asked. */
export function externalProbe({ kind, url }: ServiceSpec): Probe | undefined {
  if (kind.type !== "external") return undefined;
  return kind.probe ?? (url === undefined ? undefined : defaultProbe("external"));
}

/** The status of an external service with this spec: what was found of it stays known while it is asked at the same address. */
export function externalStatus(
  spec: ServiceSpec,
  before: { readonly spec: ServiceSpec; readonly status: ServiceStatus } | undefined,
  now: Date,
): ServiceStatus {
  const { url } = spec;
  if (before !== undefined && before.spec.url === url && externalProbe(spec) !== undefined) return before.status;
  return { ...blankStatus, state: "external", url, published: url !== undefined, transitionTime: now };
}

/** What follows when a service was found up or down; undefined: it was known. It tells and never acts: the route stays. */
export function found(
  status: ServiceStatus,
  { isUp, message }: { readonly isUp: boolean; readonly message: string },
  now: Date,
): Omit<Step, "effects"> | undefined {
  const reason = isUp ? "UP" : "DOWN";
  if (status.reason === reason) return undefined;
  const type = isUp ? "service_up" : "service_down";
  return {
    status: { ...status, ready: isUp, reason, message: isUp ? "" : message, readyTransitionTime: now },
    events: [{ body: { type }, message: isUp ? "found up" : `found down: ${message}` }],
  };
}
