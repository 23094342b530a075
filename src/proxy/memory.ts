import { randomUUID } from "node:crypto";
import type { RouteMark, SeenRoute } from "../domain/route-plan.ts";
import {
  type ObservedRoutes,
  type ProxyDriver,
  ProxyFailure,
  type ProxyIdentity,
  type RouteChange,
  type RouteOutcome,
} from "./driver.ts";

/** A proxy that forwards nothing: a table that several drivers can share. */
export class MemoryTable {
  readonly routes = new Map<string, MemoryRoute>();
  bootId: string = randomUUID();
  /** Undefined: it answers. */
  failure: ProxyFailure | undefined;

  /** Forgets everything, as a proxy that comes back after a crash. */
  restart(): void {
    this.routes.clear();
    this.bootId = randomUUID();
  }
}

export interface MemoryRoute {
  readonly target: string;
  readonly owner: string | undefined;
  readonly mark: RouteMark | undefined;
}

/** The driver of a MemoryTable: for a Steward without a proxy, and for tests of what uses a driver. */
export class MemoryProxy implements ProxyDriver {
  readonly kind = "memory";
  readonly capabilities = { survivesRestart: false, keepsWebsockets: true, stripsPrefix: true, http2Targets: true };
  readonly #table: MemoryTable;
  readonly #owner: string;
  readonly #epoch: number;

  constructor(table: MemoryTable, { owner, epoch }: { readonly owner: string; readonly epoch: number }) {
    this.#table = table;
    this.#owner = owner;
    this.#epoch = epoch;
  }

  async probe(signal: AbortSignal): Promise<ProxyIdentity> {
    this.#check(signal);
    return { bootId: this.#table.bootId };
  }

  async observe(signal: AbortSignal): Promise<ObservedRoutes> {
    this.#check(signal);
    const routes = Array.from(this.#table.routes, ([prefix, route]) => this.#seen(prefix, route));
    return { bootId: this.#table.bootId, routes, shadows: new Map() };
  }

  async apply({ put, remove }: RouteChange, signal: AbortSignal): Promise<readonly RouteOutcome[]> {
    signal.throwIfAborted();
    const puts = put.map(({ prefix, target, service, serviceUid, generation }): RouteOutcome => {
      const mark = { service, serviceUid, generation, epoch: this.#epoch };
      const write = (): void => void this.#table.routes.set(prefix, { target, owner: this.#owner, mark });
      return this.#attempt({ operation: "put", prefix, serviceUid, generation }, write);
    });
    const removals = remove.map(({ prefix, mark: { serviceUid, generation } }): RouteOutcome => {
      const erase = (): void => {
        if (this.#ownedAt(prefix)?.serviceUid === serviceUid) this.#table.routes.delete(prefix);
      };
      return this.#attempt({ operation: "remove", prefix, serviceUid, generation }, erase);
    });
    return [...puts, ...removals];
  }

  close(): void {}

  #attempt(
    what: Pick<RouteOutcome, "operation" | "prefix" | "serviceUid" | "generation">,
    act: () => void,
  ): RouteOutcome {
    const { failure } = this.#table;
    if (failure !== undefined) {
      return { ...what, ok: false, kind: "transient", reason: failure.reason, message: failure.message };
    }
    if (what.operation === "put" && this.#isForeign(what.prefix)) {
      const message = `the proxy has a route at ${what.prefix} that is not ours`;
      return { ...what, ok: false, kind: "conflict", reason: "FOREIGN_ROUTE", message };
    }
    act();
    return { ...what, ok: true };
  }

  #check(signal: AbortSignal): void {
    signal.throwIfAborted();
    if (this.#table.failure !== undefined) throw this.#table.failure;
  }

  #seen(prefix: string, { target, owner, mark }: MemoryRoute): SeenRoute {
    return { prefix, target, mark: owner === this.#owner ? mark : undefined };
  }

  #ownedAt(prefix: string): RouteMark | undefined {
    const route = this.#table.routes.get(prefix);
    return route?.owner === this.#owner ? route.mark : undefined;
  }

  #isForeign(prefix: string): boolean {
    return this.#table.routes.has(prefix) && this.#ownedAt(prefix) === undefined;
  }
}
