import { isDeepStrictEqual } from "node:util";
import type { EventBody } from "../domain/event.ts";
import type { Probe } from "../domain/probe.ts";
import type { Route } from "../domain/route.ts";
import { defaultRestartPolicy, managedDefaults, type Service, type ServiceSpec } from "../domain/service.ts";
import {
  blankStatus,
  type Condition,
  type InstanceExit,
  type ServiceStatus,
  type SideInstance,
} from "../domain/status.ts";

/** What a value becomes in a jsonb column: dates as text, undefined members gone. */
export type Json<T> = T extends Date
  ? string
  : T extends bigint
    ? string
    : T extends readonly (infer E)[]
      ? Json<E>[]
      : T extends object
        ? { [K in keyof T]: Json<T[K]> }
        : T;

/** The image of a service as service_image() makes it. */
export type ServiceImage = Omit<Json<Service>, "route"> & { readonly route: RouteRow | null };

/** A row of routes, as to_jsonb writes it or a query returns it. */
export interface RouteRow {
  readonly service_uid: string;
  readonly service: string;
  readonly prefix: string;
  readonly target: string;
  readonly state: Route["state"];
  readonly generation: number;
  readonly programmed_generation: number;
  readonly proxy: string;
  readonly reason: string;
  readonly message: string;
  readonly transition_time: string | Date;
  readonly confirm_time: string | Date | null;
}

/**
 * A fact for a jsonb column. What no text in Postgres can hold is replaced: a program's last words shall not keep its exit from being recorded.
 * What clients write is refused instead of changed (see toAppError).
 */
export function factJson(value: unknown): string {
  const text = JSON.stringify(value);
  return /\\u(0000|d[89a-f])/.test(text) ? JSON.stringify(value, storable) : text;
}

/** The same for a text column. */
export function factText(text: string): string {
  return text.toWellFormed().replaceAll("\0", "\uFFFD");
}

function storable(_: string, value: unknown): unknown {
  return typeof value === "string" ? factText(value) : value;
}

export function decodeService(image: ServiceImage): Service {
  return {
    name: image.name,
    uid: image.uid,
    spec: onlyOne(image.uid, decodeSpec(image.spec)),
    wish: image.wish,
    generation: image.generation,
    // Images of the first schema have none.
    resets: image.resets ?? 0,
    version: image.version,
    status: decodeStatus(image.status),
    route: image.route === null ? undefined : decodeRouteRow(image.route),
    revision: BigInt(image.revision),
    createTime: new Date(image.createTime),
    updateTime: new Date(image.updateTime),
    setName: image.setName,
  };
}

const specs = new Map<string, WeakRef<ServiceSpec>>();
const forgotten = new FinalizationRegistry<string>((uid) => {
  if (specs.get(uid)?.deref() === undefined) specs.delete(uid);
});

/** The spec that the service was last decoded with if it is the same: every event brings its service whole, and thousands of them are in memory. */
function onlyOne(uid: string, spec: ServiceSpec): ServiceSpec {
  const known = specs.get(uid)?.deref();
  if (known !== undefined && isDeepStrictEqual(known, spec)) return known;
  specs.set(uid, new WeakRef(spec));
  forgotten.register(spec, uid);
  return spec;
}

export function decodeRouteRow(row: RouteRow): Route {
  return {
    service: row.service,
    serviceUid: row.service_uid,
    prefix: row.prefix,
    target: row.target,
    state: row.state,
    generation: row.generation,
    programmedGeneration: row.programmed_generation,
    proxy: row.proxy,
    reason: row.reason,
    message: row.message,
    transitionTime: new Date(row.transition_time),
    confirmTime: row.confirm_time === null ? undefined : new Date(row.confirm_time),
  };
}

export function decodeExit(exit: Json<InstanceExit>): InstanceExit {
  return { ...exit, code: exit.code, signal: exit.signal, time: new Date(exit.time) };
}

/**
 * Members that are undefined are absent in JSON: they come back as undefined by not being there. What a spec of an earlier schema lacks has its
 * default, because that is how it was run.
 */
export function decodeSpec(spec: Json<ServiceSpec>): ServiceSpec {
  const kind = spec.kind;
  if (kind.type === "external") {
    return { ...spec, url: spec.url, kind: { type: "external", probe: decodeProbe(kind.probe) } };
  }
  const [program = "", ...args] = kind.command;
  const { maxRestarts } = kind.restartPolicy;
  return {
    ...spec,
    url: spec.url,
    kind: {
      ...managedDefaults,
      ...kind,
      command: [program, ...args],
      cwd: kind.cwd,
      user: kind.user,
      restartPolicy: { ...defaultRestartPolicy, ...kind.restartPolicy, maxRestarts },
      drainMs: kind.drainMs,
      limits: kind.limits ?? {},
      dependsOn: kind.dependsOn ?? [],
      startupProbe: decodeProbe(kind.startupProbe),
      readinessProbe: decodeProbe(kind.readinessProbe),
      livenessProbe: decodeProbe(kind.livenessProbe),
    },
  };
}

function decodeStatus(status: Json<ServiceStatus>): ServiceStatus {
  return {
    ...blankStatus,
    state: status.state,
    ready: status.ready,
    reason: status.reason,
    message: status.message,
    observedGeneration: status.observedGeneration,
    instanceId: status.instanceId,
    pid: status.pid,
    startTime: date(status.startTime),
    readyTime: date(status.readyTime),
    lastExit: status.lastExit === undefined ? undefined : decodeExit(status.lastExit),
    restarts: status.restarts,
    failures: status.failures,
    recentFailures: status.recentFailures.map((time) => new Date(time)),
    nextStartTime: date(status.nextStartTime),
    url: status.url,
    published: status.published,
    transitionTime: new Date(status.transitionTime),
    readyTransitionTime: date(status.readyTransitionTime),
    conditions: (status.conditions ?? []).map(decodeCondition),
    waitingFor: status.waitingFor ?? [],
    replacement: decodeSide(status.replacement),
    retiring: decodeSide(status.retiring),
    failedGeneration: status.failedGeneration ?? 0,
    observedResets: status.observedResets ?? 0,
  };
}

function decodeCondition(condition: Json<Condition>): Condition {
  return { ...condition, since: new Date(condition.since) };
}

function decodeSide(side: Json<SideInstance> | undefined): SideInstance | undefined {
  return side === undefined
    ? undefined
    : { ...side, pid: side.pid, url: side.url, startTime: new Date(side.startTime) };
}

export function decodeEventBody(body: Json<EventBody>): EventBody {
  switch (body.type) {
    case "service_updated":
      return { ...body, rolledBackTo: body.rolledBackTo === undefined ? undefined : BigInt(body.rolledBackTo) };
    case "instance_exited":
      return { ...body, pid: body.pid, exit: decodeExit(body.exit) };
    case "condition_raised":
    case "condition_cleared":
      return { ...body, condition: decodeCondition(body.condition) };
    case "restart_scheduled":
    case "crash_loop_entered":
      return { ...body, nextStartTime: new Date(body.nextStartTime) };
    case "route_pending":
    case "route_programmed":
    case "route_degraded":
    case "route_blocked":
    case "route_removing":
    case "route_removed": {
      const { transitionTime, confirmTime } = body.route;
      return {
        ...body,
        route: { ...body.route, transitionTime: new Date(transitionTime), confirmTime: date(confirmTime) },
      };
    }
    default:
      return body;
  }
}

function date(text: string | undefined): Date | undefined {
  return text === undefined ? undefined : new Date(text);
}

/** Of the union of actions JSON loses only members that are undefined. */
function decodeProbe(probe: Json<Probe> | undefined): Probe | undefined {
  return probe as Probe | undefined;
}
