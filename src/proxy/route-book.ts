import type { Clock } from "../domain/clock.ts";
import type { EventBody } from "../domain/event.ts";
import type { Route, RouteState } from "../domain/route.ts";
import {
  type NumberedRoute,
  type OwnedRoute,
  routeFor,
  type SeenRoute,
  type WantedRoute,
} from "../domain/route-plan.ts";
import type { Service } from "../domain/service.ts";
import type { RouteOutcome } from "./driver.ts";
import type { RouteMetrics } from "./route-metrics.ts";
import { isSameRoute, judge, type RouteTrouble, tidings, type Verdict } from "./route-verdict.ts";

/** What the book needs of the store: the fact and its event are durable when the promise resolves. */
export interface FactSink {
  record(fact: RouteFact): Promise<unknown>;
}

export interface RouteFact {
  readonly serviceUid?: string;
  readonly route?: Route | { readonly removed: true };
  readonly events: readonly { readonly body: EventBody; readonly message: string }[];
}

export interface RouteBookOptions {
  readonly proxy: string;
  readonly facts: FactSink;
  readonly clock: Clock;
  readonly metrics: RouteMetrics;
  /** A fact could not be recorded. */
  readonly onLost: (error: unknown) => void;
  /** There is something to do for the proxy. */
  readonly onDirty: () => void;
}

/**
 * What is wanted of each route, what the proxy has of it, and what was recorded of it. The only writer of recorded routes: each difference
 * becomes one fact with one event, and what is unchanged is not written again.
 */
export class RouteBook {
  readonly #options: RouteBookOptions;
  readonly #entries = new Map<string, Entry>();
  /** The last generation of routes that are gone: a late write of an old one must stay recognisable when the service comes back. */
  readonly #released = new Map<string, number>();
  #dirty = new Set<Entry>();
  #trouble: RouteTrouble | undefined;

  constructor(options: RouteBookOptions) {
    this.#options = options;
  }

  /** Starts from a snapshot: the only time that recorded routes are read and not written. Services that it lacks are gone for good. */
  load(services: readonly Service[]): void {
    const uids = new Set(services.map((service) => service.uid));
    for (const uid of this.#entries.keys()) if (!uids.has(uid)) this.#entries.delete(uid);
    for (const service of services) {
      if (!this.#entries.has(service.uid) && service.route !== undefined) this.#recall(service.uid, service.route);
      this.note(service);
    }
  }

  /** Hears how a service is now. */
  note(service: Service): void {
    const wanted = routeFor(service);
    const entry = this.#entries.get(service.uid) ?? (wanted === undefined ? undefined : this.#open(service.uid));
    if (entry === undefined || !differs(entry, wanted)) return;
    if (wanted !== undefined) entry.generation += 1;
    entry.wanted = wanted;
    entry.trouble = undefined;
    entry.wantedAtMs = this.#options.clock.monotonicMs();
    this.#settle(entry);
    this.#soil(entry);
  }

  /** Hears that a service is gone. Its route was removed before, unless it went before its first route was recorded: then it is removed now. */
  forget(serviceUid: string): void {
    const entry = this.#entries.get(serviceUid);
    if (entry?.wanted === undefined) return;
    entry.wanted = undefined;
    this.#settle(entry);
    this.#soil(entry);
  }

  /** What the proxy shall have. */
  wants(): NumberedRoute[] {
    return [...this.#entries.values()].flatMap((entry) => wish(entry) ?? []);
  }

  /** Whether the route may be put: before its row is durable, a crash would leave a route that nobody knows. */
  isDurable(serviceUid: string): boolean {
    return this.#entries.get(serviceUid)?.isDurable ?? false;
  }

  /** Whether the proxy was known to have the route in this form. */
  wasInPlace({ serviceUid, generation }: NumberedRoute): boolean {
    return this.#entries.get(serviceUid)?.recorded?.programmedGeneration === generation;
  }

  isReleased(serviceUid: string): boolean {
    const entry = this.#entries.get(serviceUid);
    return entry === undefined ? this.#released.has(serviceUid) : entry.wanted === undefined;
  }

  /** What changed since the last call and is not in place yet, as puts and removals. */
  takeChanges(): { put: NumberedRoute[]; remove: OwnedRoute[] } {
    const entries = [...this.#dirty];
    this.#dirty = new Set();
    return { put: entries.flatMap((entry) => missing(entry) ?? []), remove: entries.flatMap((e) => leftover(e) ?? []) };
  }

  get hasChanges(): boolean {
    return this.#dirty.size > 0;
  }

  /** The proxy has exactly these routes. Whoever is not among them is known to be absent. */
  observed(routes: readonly SeenRoute[]): void {
    this.#dirty = new Set();
    const seen = new Map(routes.map((route) => [route.prefix, route]));
    for (const entry of this.#entries.values()) this.#saw(entry, seen);
  }

  /** These puts are about to be sent: until they are answered, nobody knows whether the proxy has them. */
  begin(puts: readonly NumberedRoute[]): void {
    for (const { serviceUid } of puts) {
      const entry = this.#entries.get(serviceUid);
      if (entry !== undefined) entry.isCertain = false;
    }
  }

  /** The proxy answered each operation so. */
  applied(outcomes: readonly RouteOutcome[]): void {
    for (const outcome of outcomes) {
      this.#options.metrics.operation(outcome.operation, outcome.ok ? "done" : outcome.kind);
      const entry = this.#entries.get(outcome.serviceUid);
      if (entry === undefined) continue;
      if (outcome.ok) this.#done(entry, outcome);
      else this.#failed(entry, outcome);
      this.#settle(entry);
    }
  }

  /** Somebody else holds these prefixes. */
  conflicted(routes: readonly NumberedRoute[]): void {
    for (const { serviceUid, prefix } of routes) {
      const entry = this.#entries.get(serviceUid);
      if (entry !== undefined) entry.trouble = foreignRoute(prefix);
    }
  }

  /** The proxy lost everything and nobody can write to it. */
  emptied(): void {
    for (const entry of this.#entries.values()) this.#saw(entry, new Map());
  }

  /** The trouble of the proxy as a whole, for all that is settled from now on. */
  set proxyTrouble(trouble: RouteTrouble | undefined) {
    this.#trouble = trouble;
  }

  /** Records every route whose state follows differently from what is known now. */
  settleAll(): void {
    for (const entry of this.#entries.values()) this.#settle(entry);
  }

  /** How many routes are recorded in each state. */
  counts(): Record<RouteState, number> {
    const counts = { pending: 0, programmed: 0, degraded: 0, blocked: 0, removing: 0 };
    for (const { recorded } of this.#entries.values()) if (recorded !== undefined) counts[recorded.state] += 1;
    return counts;
  }

  /** Records something of the proxy itself. */
  proxyEvent(type: "proxy_up" | "proxy_down", message: string): void {
    this.#record({ events: [{ body: { type }, message }] });
  }

  #open(uid: string): Entry {
    const generation = this.#released.get(uid) ?? 0;
    return this.#enter({ ...blank, uid, generation, recorded: undefined });
  }

  #recall(uid: string, route: Route): void {
    const { service, serviceUid, prefix, target, state, generation, programmedGeneration } = route;
    const wanted = state === "removing" ? undefined : { service, serviceUid, prefix, target };
    const entry = { ...blank, uid, wanted, generation, recorded: route, seenGeneration: programmedGeneration };
    this.#soil(this.#enter({ ...entry, isCertain: false, isDurable: true }));
  }

  #enter(entry: Entry): Entry {
    this.#entries.set(entry.uid, entry);
    return entry;
  }

  #soil(entry: Entry): void {
    this.#dirty.add(entry);
    this.#options.onDirty();
  }

  #saw(entry: Entry, routes: ReadonlyMap<string, SeenRoute>): void {
    const prefix = entry.wanted?.prefix ?? entry.recorded?.prefix ?? "";
    const seen = routes.get(prefix);
    const mark = seen?.mark?.serviceUid === entry.uid ? seen.mark : undefined;
    // Our mark over a target that we did not write is nothing of ours.
    const isAltered = mark?.generation === entry.generation && seen?.target !== entry.wanted?.target;
    const isStillThere = entry.wanted === undefined ? mark !== undefined : !isAltered;
    entry.seenGeneration = mark === undefined || !isStillThere ? 0 : Math.max(1, mark.generation);
    entry.isCertain = true;
    entry.trouble = undefined;
    if (entry.seenGeneration === entry.generation) entry.confirmTime = this.#options.clock.now();
  }

  #done(entry: Entry, { operation, generation }: RouteOutcome): void {
    entry.isCertain = true;
    entry.trouble = undefined;
    entry.seenGeneration = operation === "put" ? generation : 0;
    if (operation !== "put" || entry.wanted === undefined || entry.generation !== generation) return;
    const { clock, metrics } = this.#options;
    entry.confirmTime = clock.now();
    if (entry.recorded?.state !== "programmed") metrics.programmed(clock.monotonicMs() - entry.wantedAtMs);
  }

  #failed(entry: Entry, outcome: RouteOutcome & { readonly ok: false }): void {
    const { kind, reason, message } = outcome;
    entry.isCertain = kind !== "transient";
    entry.trouble = { reason, message, isLasting: kind !== "transient" };
  }

  #settle(entry: Entry): void {
    const { proxy, clock } = this.#options;
    const verdict = judge(entry, { proxy, trouble: this.#trouble, now: clock.now() });
    switch (verdict.kind) {
      case "none":
        this.#close(entry);
        return;
      case "removed":
        entry.recorded = undefined;
        this.#record({ serviceUid: entry.uid, route: { removed: true }, events: [tidings(verdict)] });
        this.#close(entry);
        return;
      case "route":
        this.#update(entry, verdict);
    }
  }

  #update(entry: Entry, verdict: Verdict & { readonly kind: "route" }): void {
    const { recorded, uid } = entry;
    if (recorded !== undefined && isSameRoute(recorded, verdict.route)) return;
    entry.recorded = verdict.route;
    this.#record({ serviceUid: uid, route: verdict.route, events: [tidings(verdict)] }, () => {
      if (entry.isDurable) return;
      entry.isDurable = true;
      this.#soil(entry);
    });
  }

  #close(entry: Entry): void {
    this.#entries.delete(entry.uid);
    this.#dirty.delete(entry);
    this.#released.set(entry.uid, entry.generation);
    const [oldest] = this.#released.keys();
    if (this.#released.size > mostReleased && oldest !== undefined) this.#released.delete(oldest);
  }

  #record(fact: RouteFact, onDurable?: () => void): void {
    const { facts, onLost } = this.#options;
    facts.record(fact).then(onDurable, onLost);
  }
}

interface Entry {
  readonly uid: string;
  wanted: WantedRoute | undefined;
  generation: number;
  recorded: Route | undefined;
  seenGeneration: number;
  isCertain: boolean;
  isDurable: boolean;
  confirmTime: Date | undefined;
  trouble: RouteTrouble | undefined;
  wantedAtMs: number;
}

const blank = {
  wanted: undefined,
  seenGeneration: 0,
  isCertain: true,
  isDurable: false,
  confirmTime: undefined,
  trouble: undefined,
  wantedAtMs: 0,
} as const;

const mostReleased = 10_000;

function foreignRoute(prefix: string): RouteTrouble {
  return { reason: "FOREIGN_ROUTE", message: `the proxy has a route at ${prefix} that is not ours`, isLasting: true };
}

function differs({ wanted }: Entry, next: WantedRoute | undefined): boolean {
  return wanted?.prefix !== next?.prefix || wanted?.target !== next?.target;
}

function wish({ wanted, generation }: Entry): NumberedRoute | undefined {
  return wanted === undefined ? undefined : { ...wanted, generation };
}

function missing(entry: Entry): NumberedRoute | undefined {
  const isInPlace = entry.isCertain && entry.seenGeneration === entry.generation;
  return isInPlace || !entry.isDurable || entry.trouble?.isLasting ? undefined : wish(entry);
}

function leftover({ wanted, recorded, isCertain, seenGeneration }: Entry): OwnedRoute | undefined {
  if (wanted !== undefined || recorded === undefined || (isCertain && seenGeneration === 0)) return undefined;
  const { service, serviceUid, generation, prefix } = recorded;
  return { prefix, mark: { service, serviceUid, generation, epoch: 0 } };
}
