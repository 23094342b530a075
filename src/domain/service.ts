import type { Dependency } from "./dependency.ts";
import type { Limits } from "./limits.ts";
import type { Probe } from "./probe.ts";
import type { Route } from "./route.ts";
import type { ServiceStatus } from "./status.ts";

/** What is wanted of a service. Valid by having this type: only `parseServiceSpec` (service-spec.ts) makes one. */
export interface ServiceSpec {
  readonly kind: ManagedSpec | ExternalSpec;
  readonly admin: boolean;
  /** `http(s)://HOST:PORT`, normalised to its origin; undefined: no route. Port 0, managed services only: Steward picks one. */
  readonly url: string | undefined;
  /** Whether an api_token was supplied; the token itself is stored apart, sealed. */
  readonly apiTokenSet: boolean;
  readonly oauthClientId: string;
  readonly oauthNoConfirm: boolean;
  /** Free metadata, never interpreted. */
  readonly info: Readonly<Record<string, JsonValue>>;
  readonly display: boolean;
  readonly labels: Readonly<Record<string, string>>;
}

/** Steward runs it. */
export interface ManagedSpec {
  readonly type: "managed";
  readonly command: readonly [string, ...string[]];
  readonly environment: Readonly<Record<string, string>>;
  readonly cwd: string | undefined;
  readonly user: string | undefined;
  readonly restartPolicy: RestartPolicy;
  readonly stopGraceMs: number;
  readonly readinessTimeoutMs: number;
  readonly minReadyMs: number;
  readonly stopSignal: StopSignal;
  /** Undefined: as long as the server says. */
  readonly drainMs: number | undefined;
  readonly limits: Limits;
  readonly startupProbe: Probe | undefined;
  /** Undefined: a request at the public prefix where there is a url, else being up for minReadyMs. */
  readonly readinessProbe: Probe | undefined;
  readonly livenessProbe: Probe | undefined;
  readonly dependsOn: readonly Dependency[];
  readonly updateStrategy: UpdateStrategy;
}

/** What asks a process group to end. */
export type StopSignal = (typeof stopSignals)[number];

export const stopSignals = ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL"] as const;

/** recreate: never two processes at once. rolling: the new one is ready before the old one leaves. */
export type UpdateStrategy = "recreate" | "rolling";

/** Somebody else runs it. */
export interface ExternalSpec {
  readonly type: "external";
  /** Undefined: a request at the public prefix where there is a url, else nothing. */
  readonly probe: Probe | undefined;
}

export interface RestartPolicy {
  readonly mode: "always" | "on_failure" | "never";
  readonly baseDelayMs: number;
  readonly maxDelayMs: number;
  readonly multiplier: number;
  readonly resetAfterMs: number;
  /** So long a readiness earns a first restart at once. */
  readonly immediateAfterMs: number;
  /** Undefined: never gives up. */
  readonly maxRestarts: number | undefined;
  /** Codes that mean: starting again does not help. */
  readonly noRestartExitCodes: readonly number[];
  readonly crashLoopExits: number;
  readonly crashLoopWindowMs: number;
}

export type JsonValue = null | boolean | number | string | readonly JsonValue[] | { readonly [key: string]: JsonValue };

/** running and stopped are what clients wish; deleted is a service on its way out: it is removed once its process and route are gone. */
export type Wish = "running" | "stopped" | "deleted";

/** A registered service, whole, as it was at `revision`. */
export interface Service {
  readonly name: string;
  readonly uid: string;
  readonly spec: ServiceSpec;
  readonly wish: Wish;
  /** Raised by each change that asks for a new process. Starts at 1. */
  readonly generation: number;
  /** Raised by each reset: what failed before it is forgotten. */
  readonly resets: number;
  /** Raised by each change of spec or wish, never by status. The etag is made of it. */
  readonly version: number;
  readonly status: ServiceStatus;
  readonly route: Route | undefined;
  /** The last transaction that changed the service, its status or its route. */
  readonly revision: bigint;
  readonly createTime: Date;
  readonly updateTime: Date;
  /** The set of Apply that owns it; empty: none. */
  readonly setName: string;
}

/** A registered service whose process is ours. */
export type ManagedService = Service & { readonly spec: ServiceSpec & { readonly kind: ManagedSpec } };

export const defaultRestartPolicy: RestartPolicy = {
  mode: "always",
  baseDelayMs: 1_000,
  maxDelayMs: 60_000,
  multiplier: 2,
  resetAfterMs: 120_000,
  immediateAfterMs: 10_000,
  maxRestarts: undefined,
  noRestartExitCodes: [],
  crashLoopExits: 5,
  crashLoopWindowMs: 300_000,
};

export const managedDefaults = {
  stopGraceMs: 10_000,
  readinessTimeoutMs: 30_000,
  minReadyMs: 1_000,
  stopSignal: "SIGTERM",
  updateStrategy: "recreate",
} as const;

export function isManaged(service: Service): service is ManagedService {
  return service.spec.kind.type === "managed";
}

/** Under which prefix the public reaches a service; it always ends with a slash. Source: JupyterHub, Services. */
export function publicPrefix(name: string): string {
  return `/services/${name}/`;
}

/** Changes with spec and wish only, so that a crash does not invalidate an edit. Source: AIP-154. */
export function etagOf(service: Pick<Service, "uid" | "version">): string {
  return `"${service.uid.slice(0, 8)}-${service.version}"`;
}
