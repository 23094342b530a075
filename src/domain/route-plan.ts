import { publicPrefix, type Service } from "./service.ts";

/** What a service asks of the proxy: this public prefix, to this origin. */
export interface WantedRoute {
  readonly service: string;
  readonly serviceUid: string;
  /** `/services/NAME/`. */
  readonly prefix: string;
  readonly target: string;
}

/** A wanted route in one of its forms: the generation tells an older form from a newer one. */
export interface NumberedRoute extends WantedRoute {
  readonly generation: number;
}

/** A route as a proxy shows it. */
export interface SeenRoute {
  /** Ends with a slash, as ours do. */
  readonly prefix: string;
  readonly target: string;
  /** What we wrote on it; undefined: it is somebody else's and is never touched. */
  readonly mark: RouteMark | undefined;
}

export interface RouteMark {
  readonly service: string;
  readonly serviceUid: string;
  readonly generation: number;
  /** Which claim of which server wrote it: a greater one than ours means that somebody else uses our owner id. */
  readonly epoch: number;
}

/** What makes a proxy as wanted. A prefix is in at most one of the four. */
export interface RoutePlan {
  readonly put: readonly NumberedRoute[];
  readonly remove: readonly OwnedRoute[];
  /** Wanted, but somebody else's: left as they are. */
  readonly conflicts: readonly NumberedRoute[];
  /** Ours and unexplained, but too many to be believed: left as they are. */
  readonly withheld: readonly OwnedRoute[];
}

export interface OwnedRoute {
  readonly prefix: string;
  readonly mark: RouteMark;
}

export interface PlanOptions {
  /** Whether this service once had a route and is known to want none any more. Its routes are removed however many they are. */
  readonly isReleased: (serviceUid: string) => boolean;
  /** Put also what looks right already: a proxy's listing may lie. */
  readonly isDoubted?: (route: NumberedRoute) => boolean;
}

/** The route that a service wants now; undefined: none. */
export function routeFor(service: Service): WantedRoute | undefined {
  const target = service.wish === "deleted" ? undefined : targetOf(service);
  if (target === undefined) return undefined;
  return { service: service.name, serviceUid: service.uid, prefix: publicPrefix(service.name), target };
}

/**
 * The difference between what a proxy has and what is wanted. Never touches a route without our mark. Removes only what was released, or
 * a few leftovers: an empty or truncated read of the store must not take everything off the air.
 */
export function planRoutes(
  have: Iterable<SeenRoute>,
  want: readonly NumberedRoute[],
  { isReleased, isDoubted = () => false }: PlanOptions,
): RoutePlan {
  const seen = new Map(Array.from(have, (route) => [route.prefix, route]));
  const isForeign = (route: NumberedRoute): boolean => isSomebodyElses(seen.get(route.prefix));
  const unwanted = ownedExcept(seen, new Set(want.map((route) => route.prefix)));
  const released = unwanted.filter(({ mark }) => isReleased(mark.serviceUid));
  const leftovers = unwanted.filter(({ mark }) => !isReleased(mark.serviceUid));
  const isBelievable = want.length > 0 && leftovers.length <= believableLeftovers(seen);
  return {
    put: want.filter((route) => !isForeign(route) && (isDoubted(route) || !isInPlace(seen.get(route.prefix), route))),
    remove: isBelievable ? unwanted : released,
    conflicts: want.filter(isForeign),
    withheld: isBelievable ? [] : leftovers,
  };
}

/** Whether the proxy has exactly this form of the route. */
export function isInPlace(seen: SeenRoute | undefined, wanted: NumberedRoute): boolean {
  const mark = seen?.mark;
  if (seen === undefined || mark === undefined) return false;
  return (
    seen.target === wanted.target && mark.serviceUid === wanted.serviceUid && mark.generation === wanted.generation
  );
}

/** An external service has its url as soon as it is registered; a managed one only while it is published, with the port that was picked. */
function targetOf({ spec, status }: Service): string | undefined {
  if (spec.url === undefined) return undefined;
  if (spec.kind.type === "external") return spec.url;
  if (!status.published) return undefined;
  return status.url ?? (spec.url.endsWith(":0") ? undefined : spec.url);
}

function isSomebodyElses(seen: SeenRoute | undefined): boolean {
  return seen !== undefined && seen.mark === undefined;
}

function ownedExcept(seen: ReadonlyMap<string, SeenRoute>, wanted: ReadonlySet<string>): OwnedRoute[] {
  return [...seen.values()].flatMap(({ prefix, mark }) =>
    mark === undefined || wanted.has(prefix) ? [] : [{ prefix, mark }],
  );
}

function believableLeftovers(seen: ReadonlyMap<string, SeenRoute>): number {
  const owned = [...seen.values()].filter(({ mark }) => mark !== undefined).length;
  return Math.max(10, Math.floor(owned * 0.3));
}
