import type { NumberedRoute, RouteMark, SeenRoute } from "../domain/route-plan.ts";

/**
 * How routes look inside a configurable-http-proxy: its paths have no slash at the end, and other keys beside `target` are kept as they are.
 * Ours carry `steward`. Never `jupyterhub`: a hub that shares the proxy deletes every route with that key that it does not know.
 */
export interface ChpRoute {
  readonly target: string;
  readonly steward: RouteMark & { readonly owner: string };
}

/** The path of a prefix in the API, or undefined if the proxy would understand it as something else. */
export function chpPath(prefix: string): string | undefined {
  const segments = prefix.split("/").slice(1, -1);
  const isPlain =
    prefix.startsWith("/") && prefix.endsWith("/") && segments.length > 0 && segments.every(isPlainSegment);
  return isPlain ? prefix.slice(0, -1) : undefined;
}

/** The proxy puts the path of a target before the path of each request, so only an origin leaves requests as they came. */
export function isOrigin(target: string): boolean {
  return URL.canParse(target) && /^https?:$/.test(new URL(target).protocol) && new URL(target).origin === target;
}

export function toChpRoute(route: NumberedRoute, owner: string, epoch: number): ChpRoute {
  const { service, serviceUid, generation, target } = route;
  return { target, steward: { owner, service, serviceUid, generation, epoch } };
}

/** A route of the proxy's listing. Anything that is not wholly one of ours is somebody else's. */
export function fromChpRoute(path: string, value: unknown, owner: string): SeenRoute {
  const route = asRecord(value);
  const target = typeof route["target"] === "string" ? route["target"] : "";
  return { prefix: path.endsWith("/") ? path : `${path}/`, target, mark: markOf(asRecord(route["steward"]), owner) };
}

/** The prefix that a path with doubled slashes captures: the proxy lists such a path apart and yet routes by it. */
export function shadowedPrefix(path: string): string | undefined {
  const segments = path.split("/").filter((segment) => segment !== "");
  const prefix = segments.length === 0 ? "/" : `/${segments.join("/")}/`;
  return path === prefix || `${path}/` === prefix ? undefined : prefix;
}

/** What changes whenever somebody writes this route. */
export function fingerprint(value: unknown): string {
  const { target, last_activity: lastActivity } = asRecord(value);
  return `${String(target)} ${String(lastActivity)}`;
}

export function asRecord(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

function isPlainSegment(segment: string): boolean {
  return /^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$/.test(segment) && !(segment in {});
}

function markOf(steward: Readonly<Record<string, unknown>>, owner: string): RouteMark | undefined {
  if (steward["owner"] !== owner) return undefined;
  const { service, serviceUid, generation, epoch } = steward;
  return {
    service: typeof service === "string" ? service : "",
    serviceUid: typeof serviceUid === "string" ? serviceUid : "",
    generation: typeof generation === "number" ? generation : 0,
    epoch: typeof epoch === "number" ? epoch : 0,
  };
}
