import { setMaxListeners } from "node:events";
import type { Logger } from "pino";
import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import type { Cursor, Event } from "../domain/event.ts";
import type { RouteState } from "../domain/route.ts";
import { type NumberedRoute, planRoutes, type RoutePlan } from "../domain/route-plan.ts";
import type { Service } from "../domain/service.ts";
import { type ObservedRoutes, type ProxyDriver, ProxyFailure, type RouteChange, type RouteOutcome } from "./driver.ts";
import { ProxyHealth } from "./proxy-health.ts";
import { RouteAlarms } from "./route-alarms.ts";
import { type FactSink, RouteBook } from "./route-book.ts";
import { noRouteMetrics, type RouteMetrics } from "./route-metrics.ts";
import { defaultRouteTiming, type RouteTiming } from "./route-timing.ts";
import { Schedule } from "./schedule.ts";

/** What the route keeper needs of the store. */
export interface ServiceSnapshots {
  snapshot(): Promise<{ readonly services: readonly Service[]; readonly revision: bigint }>;
}

/** What the route keeper needs of the feed. */
export interface EventFollower {
  follow(o: {
    readonly after: Cursor;
    readonly signal: AbortSignal;
    readonly follower: string;
  }): AsyncIterable<FollowedItem>;
}

export type FollowedItem =
  | { readonly kind: "opened" | "progress"; readonly cursor: Cursor }
  | { readonly kind: "events"; readonly events: readonly Event[]; readonly cursor: Cursor };

export interface RouteKeeperOptions {
  readonly driver: ProxyDriver;
  /** The proxy's name, as routes show it. */
  readonly proxy: string;
  readonly storeUid: string;
  readonly services: ServiceSnapshots;
  readonly feed: EventFollower;
  readonly facts: FactSink;
  readonly clock: Clock;
  readonly log: Logger;
  /** This server's claim; a greater one on a route of ours means that another server uses our owner id. */
  readonly epoch: number;
  readonly metrics?: RouteMetrics;
  /** Whether the proxy is known to run no more, so that no route of it can be left. Default: never. */
  readonly isProxyGone?: () => boolean;
  readonly timing?: Partial<RouteTiming>;
}

/** What a reconciliation came to. */
export interface ReconcileResult {
  readonly wanted: number;
  readonly put: number;
  readonly removed: number;
  readonly failed: number;
}

/**
 * Makes the proxy's routes match what services want, and records what came of it. Looks at differences, not at commands: a proxy that
 * forgot everything, a hand that changed a route and a call without an answer are all healed by the next look.
 */
export class RouteKeeper {
  readonly #options: RouteKeeperOptions;
  readonly #metrics: RouteMetrics;
  readonly #timing: RouteTiming;
  readonly #book: RouteBook;
  readonly #health: ProxyHealth;
  readonly #schedule: Schedule;
  readonly #stopping = new AbortController();
  #demands: Demand[] = [];
  #running: Promise<unknown> = Promise.resolve();
  #bootId: string | undefined;
  #shadows: ReadonlyMap<string, string> = new Map();
  readonly #alarms: RouteAlarms;

  constructor(options: RouteKeeperOptions) {
    const { proxy, facts, clock, log, metrics = noRouteMetrics } = options;
    this.#options = options;
    this.#metrics = metrics;
    this.#timing = { ...defaultRouteTiming, ...options.timing };
    this.#schedule = new Schedule(clock);
    this.#alarms = new RouteAlarms(options.epoch, metrics, log);
    this.#health = new ProxyHealth(this.#timing);
    const onLost = (error: unknown): void => log.error({ err: error }, "a fact about a route could not be recorded");
    this.#book = new RouteBook({ proxy, facts, clock, metrics, onLost, onDirty: () => this.#schedule.ring() });
    setMaxListeners(0, this.#stopping.signal);
  }

  /** Resolves when it knows what is wanted; the proxy need not answer for that. */
  async start(): Promise<void> {
    const cursor = await this.#load();
    this.#schedule.observeInMs(0);
    this.#schedule.reassertInMs(this.#jittered(this.#timing.reassertEveryMs));
    this.#running = Promise.all([this.#follow(cursor), this.#work()]);
  }

  /** Routes stay as they are. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#schedule.ring();
    await this.#running;
    for (const demand of this.#demands.splice(0)) demand.reject(draining());
  }

  /** Compares every route with the proxy now and repairs what differs; with `reassert` all are put again. Throws unavailable. */
  reconcile({ reassert }: { readonly reassert: boolean }): Promise<ReconcileResult> {
    if (this.#stopping.signal.aborted) return Promise.reject(draining());
    return new Promise((resolve, reject) => {
      this.#demands.push({ reassert, resolve, reject });
      this.#schedule.ring();
    });
  }

  /** How many routes are in each state. */
  counts(): Readonly<Record<RouteState, number>> {
    return this.#book.counts();
  }

  /** What a reconciliation would come to now: the proxy is looked at and left as it is. Throws unavailable. */
  async foresee({ reassert }: { readonly reassert: boolean }): Promise<ReconcileResult> {
    const { signal } = this.#stopping;
    try {
      const plan = this.#difference(await this.#options.driver.observe(signal), reassert);
      const { put, remove, conflicts } = this.#durable(plan);
      const wanted = this.#book.wants().length;
      return { wanted, put: put.length, removed: remove.length, failed: conflicts.length };
    } catch (error) {
      throw signal.aborted ? draining() : unavailable(error);
    }
  }

  /** Looks at the proxy at once: something suggests that it has just come back. */
  wake(): void {
    this.#health.hope(this.#options.clock.monotonicMs());
    this.#schedule.observeInMs(0);
    this.#schedule.ring();
  }

  async #load(): Promise<Cursor> {
    const { services, revision } = await this.#options.services.snapshot();
    this.#book.load(services);
    return { storeUid: this.#options.storeUid, revision };
  }

  async #follow(from: Cursor): Promise<void> {
    const { feed, log } = this.#options;
    const { signal } = this.#stopping;
    for (let after: Cursor | undefined = from; !signal.aborted; ) {
      try {
        after ??= await this.#load();
        for await (const item of feed.follow({ after, signal, follower: "routes" })) {
          if (item.kind === "events") item.events.forEach((event) => this.#hear(event));
          after = item.cursor;
        }
      } catch (error) {
        if (signal.aborted || isDraining(error)) return;
        log.warn({ err: error }, "the route keeper lost the feed and starts from a snapshot");
        after = undefined;
      }
      await this.#schedule.pause(this.#timing.refollowMs, signal);
    }
  }

  #hear(event: Event): void {
    if (event.body.type === "service_deleted" && event.service !== undefined) this.#book.forget(event.service.uid);
    else if (event.after !== undefined) this.#book.note(event.after);
  }

  async #work(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      await this.#turn();
      await this.#schedule.rest(this.#health.retryAtMs);
    }
  }

  async #turn(): Promise<void> {
    const { clock, log } = this.#options;
    const startMs = clock.monotonicMs();
    const demands = this.#demands.splice(0);
    try {
      const result = await this.#attempt(demands, startMs);
      for (const demand of demands) demand.resolve(result);
    } catch (error) {
      if (!(error instanceof ProxyFailure) && !this.#stopping.signal.aborted) {
        log.error({ err: error }, "the route keeper failed at a turn");
      }
      for (const demand of demands) demand.reject(this.#stopping.signal.aborted ? draining() : unavailable(error));
      if (!this.#stopping.signal.aborted) this.#failed(asFailure(error), startMs);
    }
  }

  async #attempt(demands: readonly Demand[], nowMs: number): Promise<ReconcileResult> {
    const { retryAtMs } = this.#health;
    if (demands.length === 0 && retryAtMs !== undefined && retryAtMs > nowMs) return nothingDone;
    const isReassertion = this.#schedule.isReassertDue || demands.some((demand) => demand.reassert);
    const isLook = isReassertion || demands.length > 0 || retryAtMs !== undefined || this.#schedule.isObserveDue;
    if (isLook || (this.#schedule.isProbeDue && (await this.#hasRestarted()))) return this.#reconcileAll(isReassertion);
    return this.#book.hasChanges ? this.#applyChanges() : nothingDone;
  }

  async #hasRestarted(): Promise<boolean> {
    this.#schedule.probeInMs(this.#jittered(this.#timing.probeEveryMs));
    const { bootId } = await this.#options.driver.probe(this.#stopping.signal);
    return bootId === undefined || bootId !== this.#bootId;
  }

  async #reconcileAll(isReassertion: boolean): Promise<ReconcileResult> {
    const { driver, clock } = this.#options;
    const startMs = clock.monotonicMs();
    const observed = await driver.observe(this.#stopping.signal);
    this.#answered(observed.bootId);
    const plan = this.#plan(observed, isReassertion);
    this.#book.observed(observed.routes);
    this.#book.conflicted(plan.conflicts);
    const outcomes = await this.#apply({ put: plan.put, remove: plan.remove, lookFirst: false });
    this.#book.settleAll();
    this.#scheduleLooks(observed.routes.length, isReassertion);
    this.#metrics.reconciled(clock.monotonicMs() - startMs);
    return this.#conclude(outcomes, plan);
  }

  #plan(observed: ObservedRoutes, isReassertion: boolean): RoutePlan {
    const plan = this.#difference(observed, isReassertion);
    this.#shadows = observed.shadows;
    this.#alarms.report(observed, plan, this.#book);
    return this.#durable(plan);
  }

  #difference({ routes, shadows }: ObservedRoutes, isReassertion: boolean): RoutePlan {
    const before = this.#shadows;
    const isShadowed = ({ prefix }: NumberedRoute): boolean => shadows.get(prefix) !== before.get(prefix);
    const isReleased = (uid: string): boolean => this.#book.isReleased(uid);
    const isDoubted = (route: NumberedRoute): boolean => isReassertion || isShadowed(route);
    return planRoutes(routes, this.#book.wants(), { isReleased, isDoubted });
  }

  #durable(plan: RoutePlan): RoutePlan {
    return { ...plan, put: plan.put.filter((route) => this.#book.isDurable(route.serviceUid)) };
  }

  async #applyChanges(): Promise<ReconcileResult> {
    const changes = this.#book.takeChanges();
    if (changes.put.length + changes.remove.length === 0) return nothingDone;
    const outcomes = await this.#apply({ ...changes, lookFirst: true });
    return this.#conclude(outcomes, { conflicts: [] });
  }

  async #apply(change: RouteChange): Promise<readonly RouteOutcome[]> {
    this.#book.begin(change.put);
    const outcomes = await this.#options.driver.apply(change, this.#stopping.signal);
    this.#book.applied(outcomes);
    return outcomes;
  }

  /** What was not done is tried again, with everything looked at first: after a failed call nobody knows what the proxy has. */
  #conclude(outcomes: readonly RouteOutcome[], { conflicts }: Pick<RoutePlan, "conflicts">): ReconcileResult {
    if (outcomes.some((outcome) => !outcome.ok && outcome.kind === "transient")) {
      this.#health.unfinished(this.#options.clock.monotonicMs());
    } else {
      this.#health.finished();
    }
    const count = (operation: "put" | "remove", ok: boolean): number =>
      outcomes.filter((outcome) => outcome.operation === operation && outcome.ok === ok).length;
    return {
      wanted: this.#book.wants().length,
      put: count("put", true),
      removed: count("remove", true),
      failed: count("put", false) + conflicts.length,
    };
  }

  #answered(bootId: string | undefined): void {
    const isNews = this.#health.answered();
    const hasRestarted = this.#bootId !== undefined && this.#bootId !== bootId;
    this.#bootId = bootId;
    this.#book.proxyTrouble = undefined;
    this.#metrics.proxyIsUp(true);
    if (hasRestarted) this.#metrics.proxyRestarted();
    if (!isNews && !hasRestarted) return;
    const message = hasRestarted ? "the proxy has restarted and gets its routes again" : "the proxy answers";
    this.#options.log.info({ proxy: this.#options.proxy }, message);
    this.#book.proxyEvent("proxy_up", message);
  }

  #failed(failure: ProxyFailure, sinceMs: number): void {
    const { clock, log, proxy, isProxyGone } = this.#options;
    const isNews = this.#health.failed(failure, sinceMs, clock.monotonicMs());
    if (isNews) {
      log.warn({ proxy, err: failure }, "the proxy is down");
      this.#book.proxyEvent("proxy_down", failure.message);
    }
    if (isProxyGone?.() === true) this.#book.emptied();
    this.#book.proxyTrouble = this.#health.trouble;
    if (this.#health.trouble === undefined) return;
    this.#metrics.proxyIsUp(false);
    this.#book.settleAll();
  }

  #scheduleLooks(routes: number, isReassertion: boolean): void {
    const { observeEveryMs, probeEveryMs, reassertEveryMs } = this.#timing;
    // A proxy answers nobody else while it lists its routes.
    this.#schedule.observeInMs(this.#jittered(observeEveryMs * Math.max(1, routes / 10_000)));
    this.#schedule.probeInMs(this.#jittered(probeEveryMs));
    if (isReassertion) this.#schedule.reassertInMs(this.#jittered(reassertEveryMs));
  }

  #jittered(ms: number): number {
    return ms * (0.9 + Math.random() * 0.2);
  }
}

interface Demand {
  readonly reassert: boolean;
  readonly resolve: (result: ReconcileResult) => void;
  readonly reject: (error: unknown) => void;
}

const nothingDone: ReconcileResult = { wanted: 0, put: 0, removed: 0, failed: 0 };

function asFailure(error: unknown): ProxyFailure {
  return error instanceof ProxyFailure ? error : new ProxyFailure("PROXY_ERROR", "programming the proxy failed", error);
}

function unavailable(cause: unknown): AppError {
  const { message } = asFailure(cause);
  return new AppError("unavailable", "PROXY_UNAVAILABLE", message, { retryAfterMs: 1_000, cause });
}

function draining(): AppError {
  return new AppError("unavailable", "SERVER_DRAINING", "the server stops");
}

function isDraining(error: unknown): boolean {
  return error instanceof AppError && error.reason === "SERVER_DRAINING";
}
