import type { RouteState } from "../domain/route.ts";

/** What can be counted of routes. Every method returns at once and never throws. */
export interface RouteMetrics {
  proxyIsUp(isUp: boolean): void;
  proxyRestarted(): void;
  /** How many routes are in each state, after every look at the whole proxy. */
  routes(counts: Readonly<Record<RouteState, number>>): void;
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
  routes() {},
  operation() {},
  programmed() {},
  reconciled() {},
  drift() {},
  foreignRoutes() {},
};
