import type { Logger } from "pino";
import type { NumberedRoute, RoutePlan, SeenRoute } from "../domain/route-plan.ts";
import type { ObservedRoutes } from "./driver.ts";
import type { RouteMetrics } from "./route-metrics.ts";

/** What the alarms need to tell drift from a change of the wish. */
export interface RouteExpectations {
  isReleased(serviceUid: string): boolean;
  wasInPlace(route: NumberedRoute): boolean;
}

/** Tells what is wrong with the routes that a look has found: in numbers each time, in the log once for each change. */
export class RouteAlarms {
  readonly #epoch: number;
  readonly #metrics: RouteMetrics;
  readonly #log: Logger;
  #last = "[]";

  constructor(epoch: number, metrics: RouteMetrics, log: Logger) {
    this.#epoch = epoch;
    this.#metrics = metrics;
    this.#log = log;
  }

  report(observed: ObservedRoutes, plan: RoutePlan, expected: RouteExpectations): void {
    const shadowed = [...plan.put, ...plan.conflicts].filter(({ prefix }) => observed.shadows.has(prefix));
    const seen = new Map(observed.routes.map((route) => [route.prefix, route]));
    const lost = plan.put.filter((route) => expected.wasInPlace(route));
    const extra = plan.remove.filter(({ mark }) => !expected.isReleased(mark.serviceUid));
    this.#metrics.drift("missing", lost.filter(({ prefix }) => !seen.has(prefix)).length);
    this.#metrics.drift("changed", lost.filter((route) => isChanged(seen.get(route.prefix), route)).length);
    this.#metrics.drift("extra", extra.length);
    this.#metrics.drift("conflict", plan.conflicts.length);
    this.#metrics.drift("withheld", plan.withheld.length);
    this.#metrics.drift("shadow", shadowed.length);
    this.#metrics.foreignRoutes(
      observed.routes.filter(({ mark }) => mark === undefined).length + observed.shadows.size,
    );
    this.#warn([
      ["held by others", plan.conflicts],
      ["too many unexplained to remove", plan.withheld],
      ["captured by a spelling with doubled slashes", shadowed],
      ["written by another server with our owner id", observed.routes.filter((route) => this.#isUsurped(route))],
    ]);
  }

  #isUsurped({ mark }: SeenRoute): boolean {
    return mark !== undefined && mark.epoch > this.#epoch;
  }

  #warn(all: readonly (readonly [string, readonly { readonly prefix: string }[]])[]): void {
    const found = all.flatMap(([what, routes]) => (routes.length === 0 ? [] : [[what, routes.map(prefixOf)] as const]));
    const text = JSON.stringify(found);
    if (text === this.#last) return;
    this.#last = text;
    for (const [what, prefixes] of found) {
      this.#log.warn({ count: prefixes.length, prefixes: prefixes.slice(0, 5) }, `routes on the proxy: ${what}`);
    }
  }
}

function prefixOf({ prefix }: { readonly prefix: string }): string {
  return prefix;
}

function isChanged(seen: SeenRoute | undefined, route: NumberedRoute): boolean {
  return seen !== undefined && (seen.target !== route.target || seen.mark?.generation !== route.generation);
}
