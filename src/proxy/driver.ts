import type { NumberedRoute, OwnedRoute, SeenRoute } from "../domain/route-plan.ts";

/**
 * One proxy that Steward programs but does not own. Every call may be repeated and ends by itself, also when the proxy accepts and never
 * answers. A driver recognises its own routes by a mark and neither changes nor removes any other, the default route included.
 */
export interface ProxyDriver {
  readonly kind: string;
  readonly capabilities: ProxyCapabilities;
  /** Cheap enough for every few seconds. Throws ProxyFailure. */
  probe(signal: AbortSignal): Promise<ProxyIdentity>;
  /** Everything the proxy has. Leaves a sign by which a restart is noticed. Throws ProxyFailure. */
  observe(signal: AbortSignal): Promise<ObservedRoutes>;
  /** Puts first, removals last; one outcome for each. Throws only when the signal is aborted. */
  apply(change: RouteChange, signal: AbortSignal): Promise<readonly RouteOutcome[]>;
  /** Lets go of connections. Routes stay. */
  close(): void;
}

/** What a proxy can do, for the rules that depend on it. */
export interface ProxyCapabilities {
  /** Its routes outlive its process. */
  readonly survivesRestart: boolean;
  /** Open websockets survive a change of their route. */
  readonly keepsWebsockets: boolean;
  /** It can take the prefix off before forwarding, per route. */
  readonly stripsPrefix: boolean;
  /** It speaks HTTP/2 to targets, as gRPC needs. */
  readonly http2Targets: boolean;
}

/** Which run of the proxy answers: another bootId than before means that it has lost its routes. Undefined: not known (any more). */
export interface ProxyIdentity {
  readonly bootId: string | undefined;
}

export interface ObservedRoutes extends ProxyIdentity {
  readonly routes: readonly SeenRoute[];
  /** Somebody else's routes under a spelling that reaches one of ours: by prefix of ours, something that changes when they do. */
  readonly shadows: ReadonlyMap<string, string>;
}

export interface RouteChange {
  readonly put: readonly NumberedRoute[];
  readonly remove: readonly OwnedRoute[];
  /** What is known of these prefixes is not fresh: look at each one first, so that nobody else's route is overwritten. */
  readonly lookFirst: boolean;
}

export type RouteOutcome = RouteOperation & (Done | NotDone);

export interface RouteOperation {
  readonly operation: "put" | "remove";
  readonly prefix: string;
  readonly serviceUid: string;
  readonly generation: number;
}

interface Done {
  readonly ok: true;
}

/** transient: worth repeating, and what the proxy has now is not known. rejected and conflict: repeating does not help; it has what it had. */
interface NotDone {
  readonly ok: false;
  readonly kind: "transient" | "rejected" | "conflict";
  /** One UPPER_SNAKE word. */
  readonly reason: string;
  readonly message: string;
}

export type ProxyFailureReason = "PROXY_UNREACHABLE" | "PROXY_AUTH" | "PROXY_TLS" | "PROXY_ERROR";

/** The proxy as a whole does not do as told. Its message never holds the token. */
export class ProxyFailure extends Error {
  override readonly name = "ProxyFailure";
  readonly reason: ProxyFailureReason;

  constructor(reason: ProxyFailureReason, message: string, cause?: unknown) {
    super(message, { cause });
    this.reason = reason;
  }
}
