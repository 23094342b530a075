import { Counter, Gauge, Histogram, type Registry } from "prom-client";
import type { RouteState } from "../domain/route.ts";

/** What can be counted of routes. Every method returns at once and never throws. */
export interface RouteMetrics {
  proxyIsUp(isUp: boolean): void;
  proxyRestarted(): void;
  operation(operation: "put" | "remove", outcome: "done" | "transient" | "rejected" | "conflict"): void;
  /** From the moment that the wish was heard to the proxy's confirmation. */
  programmed(durationMs: number): void;
  reconciled(durationMs: number): void;
  /** The proxy did not have what it should have, and nobody had changed the wish. */
  drift(kind: "missing" | "changed" | "extra" | "conflict" | "withheld" | "shadow", count: number): void;
  foreignRoutes(count: number): void;
}

export const noRouteMetrics: RouteMetrics = {
  proxyIsUp() {},
  proxyRestarted() {},
  operation() {},
  programmed() {},
  reconciled() {},
  drift() {},
  foreignRoutes() {},
};

/** Tells Prometheus how many routes are in each state, whenever it asks. */
export function registerRouteStates(
  registry: Registry,
  proxy: string,
  { counts }: { readonly counts: () => Readonly<Record<RouteState, number>> },
): void {
  new Gauge({
    name: "steward_routes",
    help: "Routes by state.",
    labelNames: ["proxy", "state"],
    registers: [registry],
    collect() {
      for (const [state, count] of Object.entries(counts())) this.set({ proxy, state }, count);
    },
  });
}

/** Tells Prometheus of what is done with the routes on one proxy. */
export function prometheusRouteMetrics(registry: Registry, proxy: string): RouteMetrics {
  const registers = [registry];
  const ofProxy = { labelNames: ["proxy"], registers } as const;
  const up = new Gauge({ name: "steward_proxy_up", help: "1 if the proxy answers.", ...ofProxy });
  const restarts = new Counter({
    name: "steward_proxy_restarts_total",
    help: "Restarts of the proxy that were noticed.",
    ...ofProxy,
  });
  const foreign = new Gauge({
    name: "steward_proxy_foreign_routes",
    help: "Routes on the proxy that are not Steward's.",
    ...ofProxy,
  });
  const operations = new Counter({
    name: "steward_route_operations_total",
    help: "Routes put and removed, by outcome.",
    labelNames: ["proxy", "operation", "outcome"],
    registers,
  });
  const programmed = new Histogram({
    name: "steward_route_programmed_seconds",
    help: "Time from a wish for a route to the proxy's confirmation.",
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
    ...ofProxy,
  });
  const reconciled = new Histogram({
    name: "steward_route_reconcile_seconds",
    help: "Time of a comparison of all routes with the proxy, repairs included.",
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
    ...ofProxy,
  });
  const lastReconcile = new Gauge({
    name: "steward_route_last_reconcile_timestamp_seconds",
    help: "When all routes were last compared with the proxy.",
    ...ofProxy,
  });
  const drift = new Counter({
    name: "steward_route_drift_total",
    help: "Differences that were found on the proxy though nobody had changed the wish, by kind.",
    labelNames: ["proxy", "kind"],
    registers,
  });
  up.set({ proxy }, 0);
  restarts.inc({ proxy }, 0);
  for (const histogram of [programmed, reconciled]) histogram.zero({ proxy });
  for (const operation of ["put", "remove"])
    for (const outcome of ["done", "transient", "rejected", "conflict"])
      operations.inc({ proxy, operation, outcome }, 0);
  for (const kind of ["missing", "changed", "extra", "conflict", "withheld", "shadow"]) drift.inc({ proxy, kind }, 0);
  return {
    proxyIsUp: (isUp) => up.set({ proxy }, Number(isUp)),
    proxyRestarted: () => restarts.inc({ proxy }),
    operation: (operation, outcome) => operations.inc({ proxy, operation, outcome }),
    programmed: (durationMs) => programmed.observe({ proxy }, durationMs / 1_000),
    reconciled(durationMs) {
      reconciled.observe({ proxy }, durationMs / 1_000);
      lastReconcile.setToCurrentTime({ proxy });
    },
    drift: (kind, count) => drift.inc({ proxy, kind }, count),
    foreignRoutes: (count) => foreign.set({ proxy }, count),
  };
}
