import { invalid } from "./errors.ts";
import type { ManagedSpec, ServiceSpec } from "./service.ts";
import type { ManagedSpecInput, ServiceSpecInput } from "./service-spec.ts";

/** The fields of a spec that a client may change, by their path in the proto. */
const commonFields: Readonly<Record<string, keyof ServiceSpecInput>> = {
  "spec.admin": "admin",
  "spec.url": "url",
  "spec.api_token": "apiToken",
  "spec.oauth_client_id": "oauthClientId",
  "spec.oauth_no_confirm": "oauthNoConfirm",
  "spec.info": "info",
  "spec.display": "display",
  "spec.labels": "labels",
};

const managedFields: Readonly<Record<string, Exclude<keyof ManagedSpecInput, "type">>> = {
  "spec.managed.command": "command",
  "spec.managed.environment": "environment",
  "spec.managed.cwd": "cwd",
  "spec.managed.user": "user",
  "spec.managed.restart_policy": "restartPolicy",
  "spec.managed.stop_grace": "stopGraceMs",
  "spec.managed.readiness_timeout": "readinessTimeoutMs",
  "spec.managed.min_ready": "minReadyMs",
  "spec.managed.stop_signal": "stopSignal",
  "spec.managed.drain": "drainMs",
  "spec.managed.limits": "limits",
  "spec.managed.startup_probe": "startupProbe",
  "spec.managed.readiness_probe": "readinessProbe",
  "spec.managed.liveness_probe": "livenessProbe",
  "spec.managed.depends_on": "dependsOn",
  "spec.managed.update_strategy": "updateStrategy",
};

const externalProbe = "spec.external.probe";

const wholeKinds = new Set(["spec.managed", "spec.external"]);

/** A change of one of these asks for a new process; a change of anything else leaves it running, unless it is given another descriptor to tell its readiness. */
const restartingPaths = new Set([
  "spec.url",
  "spec.api_token",
  "spec.oauth_client_id",
  "spec.managed",
  "spec.external",
  "spec.managed.command",
  "spec.managed.environment",
  "spec.managed.cwd",
  "spec.managed.user",
  "spec.managed.limits",
]);

/**
 * The current spec with the masked fields of the next one. `*` and `spec` replace the whole spec; no paths at all: every field that is
 * given. Unknown and output-only paths are refused. Source: AIP-134.
 */
export function mergeSpec(
  current: ServiceSpecInput,
  next: ServiceSpecInput,
  paths: readonly string[] | undefined,
): ServiceSpecInput {
  const chosen = paths ?? givenPaths(next);
  const unknown = chosen.filter((path) => !isKnown(path));
  if (unknown[0] !== undefined) throw invalid(unknownPath(unknown[0]), ...unknown.slice(1).map(unknownPath));
  if (chosen.includes("*") || chosen.includes("spec")) return next;
  return chosen.reduce((merged, path) => take(merged, next, path), current);
}

/** Which parts differ, as paths of an update mask, and whether they ask for a new process. */
export function diffSpecs(before: ServiceSpec, after: ServiceSpec): { paths: string[]; restarts: boolean } {
  const paths: string[] = [];
  for (const [path, key] of Object.entries(commonFields)) {
    if (key === "apiToken") continue;
    if (!equal(before[key as keyof ServiceSpec], after[key as keyof ServiceSpec])) paths.push(path);
  }
  if (before.kind.type !== after.kind.type) paths.push(`spec.${after.kind.type}`);
  else if (before.kind.type === "managed" && after.kind.type === "managed") {
    for (const [path, key] of Object.entries(managedFields))
      if (!equal(before.kind[key], after.kind[key])) paths.push(path);
  } else if (before.kind.type === "external" && after.kind.type === "external") {
    if (!equal(before.kind.probe, after.kind.probe)) paths.push(externalProbe);
  }
  return { paths, restarts: paths.some((path) => restartingPaths.has(path)) || notifyFd(before) !== notifyFd(after) };
}

/** The descriptor on which a process tells that it is ready: it is given at the start. */
export function notifyDescriptor({ startupProbe, readinessProbe }: ManagedSpec): number | undefined {
  const action = (startupProbe ?? readinessProbe)?.action;
  return action?.kind === "notify" ? action.fd : undefined;
}

function notifyFd({ kind }: ServiceSpec): number | undefined {
  return kind.type === "managed" ? notifyDescriptor(kind) : undefined;
}

function isKnown(path: string): boolean {
  if (path === "*" || path === "spec" || path === externalProbe || wholeKinds.has(path)) return true;
  return path in commonFields || path in managedFields;
}

function unknownPath(path: string): { field: string; description: string } {
  const fields = [...Object.keys(commonFields), ...Object.keys(managedFields), externalProbe];
  const allowed = ["*", "spec", ...wholeKinds, ...fields].join(", ");
  return { field: "update_mask", description: `${JSON.stringify(path)} cannot be changed; allowed are ${allowed}` };
}

function givenPaths(next: ServiceSpecInput): string[] {
  const common = Object.entries(commonFields).filter(([, key]) => isGiven(next[key]));
  const { kind } = next;
  if (kind === undefined) return common.map(([path]) => path);
  if (kind.type === "external") return [...common.map(([path]) => path), "spec.external"];
  const managed = Object.entries(managedFields).filter(([, key]) => isGiven(kind[key]));
  return [...common, ...managed].map(([path]) => path);
}

/** What proto3 can tell apart from an unset field. */
function isGiven(value: unknown): boolean {
  if (value === undefined || value === "" || value === false) return false;
  if (Array.isArray(value)) return value.length > 0;
  return typeof value !== "object" || value === null || Object.keys(value).length > 0;
}

function take(merged: ServiceSpecInput, next: ServiceSpecInput, path: string): ServiceSpecInput {
  if (wholeKinds.has(path)) return { ...merged, kind: next.kind };
  if (path === externalProbe)
    return {
      ...merged,
      kind: { type: "external", probe: next.kind?.type === "external" ? next.kind.probe : undefined },
    };
  const common = commonFields[path];
  if (common !== undefined)
    return { ...merged, [common]: common === "apiToken" ? (next.apiToken ?? "") : next[common] };
  const managed = managedFields[path];
  if (managed === undefined) return merged;
  const base: ManagedSpecInput = merged.kind?.type === "managed" ? merged.kind : { type: "managed", command: [] };
  const value = next.kind?.type === "managed" ? next.kind[managed] : undefined;
  return { ...merged, kind: { ...base, [managed]: value ?? (managed === "command" ? [] : undefined) } };
}

function equal(one: unknown, other: unknown): boolean {
  return canonicalJson(one) === canonicalJson(other);
}

function canonicalJson(value: unknown): string {
  return (
    JSON.stringify(value, (_, part: unknown) => {
      if (typeof part !== "object" || part === null || Array.isArray(part)) return part;
      return Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)));
    }) ?? ""
  );
}
