import { randomUUID } from "node:crypto";
import { isInPlace, type NumberedRoute, type OwnedRoute, type SeenRoute } from "../domain/route-plan.ts";
import { ChpApi, type ChpApiOptions } from "./chp-api.ts";
import { asRecord, chpPath, fingerprint, fromChpRoute, isOrigin, shadowedPrefix, toChpRoute } from "./chp-routes.ts";
import {
  type ObservedRoutes,
  type ProxyCapabilities,
  type ProxyDriver,
  ProxyFailure,
  type ProxyIdentity,
  type RouteChange,
  type RouteOperation,
  type RouteOutcome,
} from "./driver.ts";
import { eachInFlight } from "./in-flight.ts";

export interface ConfigurableHttpProxyOptions extends ChpApiOptions {
  /** Written on each route: routes with another owner are somebody else's. 1 to 64 letters, digits and dashes. */
  readonly owner: string;
  /** Written on each route, to tell whose late write it was. */
  readonly epoch: number;
}

/**
 * Programs a configurable-http-proxy (5.1 or later). It forgets everything when it restarts and tells nobody: a sentinel route with a random
 * value, at which no request ever arrives anywhere, gives each run of it an identity.
 */
export class ConfigurableHttpProxy implements ProxyDriver {
  readonly kind = "configurable-http-proxy";
  readonly capabilities: ProxyCapabilities = {
    survivesRestart: false,
    keepsWebsockets: true,
    stripsPrefix: false,
    http2Targets: false,
  };
  readonly #api: ChpApi;
  readonly #owner: string;
  readonly #epoch: number;
  readonly #sentinel: string;

  constructor(options: ConfigurableHttpProxyOptions) {
    if (!/^[A-Za-z0-9-]{1,64}$/.test(options.owner)) {
      throw new TypeError("the owner id of routes has 1 to 64 letters, digits and dashes");
    }
    this.#api = new ChpApi(options);
    this.#owner = options.owner;
    this.#epoch = options.epoch;
    this.#sentinel = `/.steward/${options.owner}`;
  }

  async probe(signal: AbortSignal): Promise<ProxyIdentity> {
    return { bootId: bootIdOf(await this.#look(this.#sentinel, signal)) };
  }

  async observe(signal: AbortSignal): Promise<ObservedRoutes> {
    const table = await this.#table(signal);
    if (bootIdOf(table[this.#sentinel]) !== undefined) return this.#observed(table);
    // The sentinel goes in before the look that counts: had the proxy restarted in between, the next probe would miss it.
    await this.#leaveSentinel(signal);
    return this.#observed(await this.#table(signal));
  }

  async apply({ put, remove, lookFirst }: RouteChange, signal: AbortSignal): Promise<readonly RouteOutcome[]> {
    const run = new ApplyRun(signal);
    const puts = await eachInFlight(this.#api.callsInFlight, put, (route) => {
      return run.attempt(operation("put", route, route), () => this.#put(route, lookFirst, signal));
    });
    const removals = await eachInFlight(this.#api.callsInFlight, remove, (route) => {
      return run.attempt(operation("remove", route, route.mark), () => this.#remove(route, lookFirst, signal));
    });
    return [...puts, ...removals];
  }

  close(): void {
    this.#api.close();
  }

  async #put(route: NumberedRoute, lookFirst: boolean, signal: AbortSignal): Promise<void> {
    const path = chpPath(route.prefix);
    if (path === undefined)
      throw new Refusal("rejected", "PREFIX_REFUSED", `${route.prefix} cannot be a route's prefix`);
    if (!isOrigin(route.target)) throw new Refusal("rejected", "TARGET_REFUSED", "the target is not a plain origin");
    if (lookFirst) this.#refuseForeign(await this.#seen(path, signal));
    const body = toChpRoute(route, this.#owner, this.#epoch);
    await this.#twice(
      () => this.#write(path, body, signal),
      async () => {
        const seen = await this.#seen(path, signal);
        this.#refuseForeign(seen);
        return isInPlace(seen, route);
      },
    );
  }

  async #remove(route: OwnedRoute, lookFirst: boolean, signal: AbortSignal): Promise<void> {
    const path = chpPath(route.prefix);
    // Without a path the proxy takes DELETE for its default route, or hangs.
    if (path === undefined)
      throw new Refusal("rejected", "PREFIX_REFUSED", `${route.prefix} cannot be a route's prefix`);
    const isGone = async (): Promise<boolean> => {
      const seen = await this.#seen(path, signal);
      return seen?.mark?.serviceUid !== route.mark.serviceUid;
    };
    if (lookFirst && (await isGone())) return;
    await this.#twice(() => this.#delete(path, signal), isGone);
  }

  /** After a failed call it is not known whether the proxy did it. So: look, and do it once more if it did not. */
  async #twice(act: () => Promise<void>, isDone: () => Promise<boolean>): Promise<void> {
    try {
      await act();
    } catch (error) {
      if (!(error instanceof ProxyFailure) || error.reason !== "PROXY_UNREACHABLE") throw error;
      if (!(await isDone())) await act();
    }
  }

  async #leaveSentinel(signal: AbortSignal): Promise<void> {
    const sentinel = { target: nowhere, boot: randomUUID() };
    const { status } = await this.#api.call("POST", this.#sentinel, signal, sentinel);
    if (status !== 201) throw new ProxyFailure("PROXY_ERROR", `the proxy answers ${status} to the sentinel route`);
  }

  async #table(signal: AbortSignal): Promise<Readonly<Record<string, unknown>>> {
    const { status, body } = await this.#api.call("GET", "", signal);
    if (status !== 200) throw new ProxyFailure("PROXY_ERROR", `the proxy answers ${status} where its routes should be`);
    return parseObject(body);
  }

  async #look(path: string, signal: AbortSignal): Promise<unknown> {
    const { status, body } = await this.#api.call("GET", path, signal);
    if (status === 404) return undefined;
    if (status !== 200) throw new ProxyFailure("PROXY_ERROR", `the proxy answers ${status} where a route should be`);
    return parseObject(body);
  }

  async #seen(path: string, signal: AbortSignal): Promise<SeenRoute | undefined> {
    const value = await this.#look(path, signal);
    return value === undefined ? undefined : fromChpRoute(path, value, this.#owner);
  }

  async #write(path: string, body: unknown, signal: AbortSignal): Promise<void> {
    const reply = await this.#api.call("POST", path, signal, body);
    if (reply.status !== 201)
      throw new Refusal("rejected", "PROXY_REJECTED", `the proxy answers ${reply.status} to a route`);
  }

  async #delete(path: string, signal: AbortSignal): Promise<void> {
    const { status } = await this.#api.call("DELETE", path, signal);
    if (status === 204 || status === 404) return;
    throw new Refusal("rejected", "PROXY_REJECTED", `the proxy answers ${status} to a removal`);
  }

  #refuseForeign(seen: SeenRoute | undefined): void {
    if (seen === undefined || seen.mark !== undefined) return;
    throw new Refusal("conflict", "FOREIGN_ROUTE", `the proxy has a route at ${seen.prefix} that is not ours`);
  }

  #observed(table: Readonly<Record<string, unknown>>): ObservedRoutes {
    const routes: SeenRoute[] = [];
    const shadows = new Map<string, string>();
    for (const [path, value] of Object.entries(table)) {
      if (path === this.#sentinel) continue;
      const prefix = shadowedPrefix(path);
      if (prefix === undefined) routes.push(fromChpRoute(path, value, this.#owner));
      else shadows.set(prefix, `${shadows.get(prefix) ?? ""} ${path} ${fingerprint(value)}`);
    }
    return { bootId: bootIdOf(table[this.#sentinel]), routes, shadows };
  }
}

/** A target that refuses every connection and costs no look-up of a name. */
const nowhere = "unix+http://%2Fdev%2Fnull";

/** So many errors in a row are the proxy's, not a route's. */
const tolerableErrors = 10;

/** The calls of one apply: once the proxy as a whole fails, the rest is not tried. */
class ApplyRun {
  readonly #signal: AbortSignal;
  #failure: ProxyFailure | undefined;
  #errors = 0;

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  async attempt(what: RouteOperation, work: () => Promise<void>): Promise<RouteOutcome> {
    if (this.#failure !== undefined) return transient(what, this.#failure);
    try {
      await work();
      return { ...what, ok: true };
    } catch (error) {
      this.#signal.throwIfAborted();
      if (error instanceof Refusal) return { ...what, ok: false, ...error.details };
      if (!(error instanceof ProxyFailure)) throw error;
      this.#note(error);
      return transient(what, error);
    }
  }

  #note(failure: ProxyFailure): void {
    this.#errors += 1;
    if (failure.reason !== "PROXY_ERROR" || this.#errors >= tolerableErrors) this.#failure = failure;
  }
}

/** One route is not taken, and asking again would not help. */
class Refusal extends Error {
  readonly details: { readonly kind: "rejected" | "conflict"; readonly reason: string; readonly message: string };

  constructor(kind: "rejected" | "conflict", reason: string, message: string) {
    super(message);
    this.details = { kind, reason, message };
  }
}

function operation(
  kind: "put" | "remove",
  { prefix }: { readonly prefix: string },
  { serviceUid, generation }: { readonly serviceUid: string; readonly generation: number },
): RouteOperation {
  return { operation: kind, prefix, serviceUid, generation };
}

function transient(what: RouteOperation, { reason, message }: ProxyFailure): RouteOutcome {
  return { ...what, ok: false, kind: "transient", reason, message };
}

function bootIdOf(sentinel: unknown): string | undefined {
  const { boot } = asRecord(sentinel);
  return typeof boot === "string" ? boot : undefined;
}

function parseObject(body: string): Readonly<Record<string, unknown>> {
  try {
    return asRecord(JSON.parse(body));
  } catch (cause) {
    throw new ProxyFailure("PROXY_ERROR", "the proxy's answer is not JSON", cause);
  }
}
