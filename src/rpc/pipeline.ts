import { setTimeout as delay } from "node:timers/promises";
import type { Message } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import type { Logger } from "pino";
import { AppError } from "../domain/errors.ts";
import { LineBudget } from "../domain/line-budget.ts";
import type { Principal } from "../domain/principal.ts";
import { type Arrival, Call, callIdOf, type Method } from "./call.ts";
import { within } from "./current-call.ts";
import { connectTimeoutMs, grpcTimeoutMs } from "./deadline.ts";
import { clientGone, isBug, RpcError, reasonOf, rpcError } from "./errors.ts";
import { anybody, type Gate } from "./gate.ts";
import type { Pump, ServedService, StreamItem } from "./handler.ts";
import { InterruptibleStream, type Outlet } from "./interruptible-stream.ts";
import type { Limits } from "./limits.ts";
import type { Metrics } from "./metrics.ts";
import { redact } from "./redact.ts";
import { StreamQuota } from "./stream-quota.ts";
import { closeSpan, openSpan } from "./tracing.ts";
import { Validation } from "./validation.ts";

export interface PipelineOptions {
  readonly services: readonly ServedService[];
  readonly gate: Gate;
  readonly limits: Limits;
  readonly metrics: Metrics;
  readonly log: Logger;
  /** From what time on a call is slow, so that the log tells of it; 0: none is. */
  readonly slowCallMs: number;
}

/**
 * What happens to every call, whatever brought it: begin (id, span, counters), admit (drain, token, quota: before any body byte), check the
 * request, run the handler, translate its failure, end (counters, log, span).
 */
export class Pipeline {
  readonly methods: ReadonlyMap<string, Method>;
  readonly services: readonly ServedService[];
  readonly #gate: Gate;
  readonly #metrics: Metrics;
  readonly #log: Logger;
  readonly #quota: StreamQuota;
  readonly #slowCallMs: number;
  readonly #slowLines = new LineBudget();
  // Anybody can be refused as often as they like, with a wrong token for example; the counters have the numbers.
  readonly #endLines = new LineBudget({ burst: 200, perSecond: 10 });
  readonly #validation = new Validation();
  readonly #open = new Set<Call>();
  readonly #fail = (call: Call, error: unknown) => this.fail(call, error);
  readonly #onEnd = (call: Call, error: RpcError | undefined) => this.#ended(call, error);
  #refusal: AppError | undefined;
  #whenEmpty: (() => void) | undefined;

  constructor({ services, gate, limits, metrics, log, slowCallMs }: PipelineOptions) {
    this.services = services;
    this.#gate = gate;
    this.#metrics = metrics;
    this.#log = log;
    this.#quota = new StreamQuota(limits);
    this.#slowCallMs = slowCallMs;
    this.methods = new Map(services.flatMap((service) => methodsOf(service, metrics)).map((m) => [m.path, m]));
    for (const method of this.methods.values()) this.#validation.prepare(method.desc.input);
  }

  /** Refuses what is no call: there is no such method, or it does not come as the method wants. Counted and logged like the calls that are. */
  turnAway({ path, protocol, peer, headers }: NoCall, why: AppError | RpcError): { error: RpcError; callId: string } {
    const callId = callIdOf(headers["x-request-id"]);
    const error = rpcError(why, callId);
    const metrics = this.methods.get(path)?.metrics ?? this.#metrics.unknownMethod;
    metrics.started();
    metrics.handled(error.code, 0);
    this.#countReason(error);
    this.#logEnd({ callId, method: path.slice(0, 256), protocol, peer, principal: anybody }, error, 0);
    return { error, callId };
  }

  /** Takes a call in. From here on it has an id and will have an end. */
  begin(arrival: Arrival): Call {
    const call = new Call(arrival, performance.now(), this.#onEnd);
    this.#open.add(call);
    call.target.metrics.started();
    call.span = openSpan(call);
    return call;
  }

  /** Decides from the headers alone whether the call goes on. Throws RpcError: UNAVAILABLE, UNAUTHENTICATED, RESOURCE_EXHAUSTED. */
  admit(call: Call): void {
    try {
      if (this.#refusal !== undefined && !call.target.isOpen) throw this.#refusal;
      const timeoutMs = timeoutOf(call.arrival);
      if (!call.target.isOpen) this.#identify(call);
      if (call.target.isStream) call.release = this.#quota.take(call.principal);
      if (timeoutMs !== undefined) call.expireAfter(timeoutMs);
    } catch (error) {
      throw this.fail(call, error);
    }
  }

  /** Runs a unary handler. Rejects with RpcError only, and at once when the call is interrupted. */
  async unary(call: Call, request: Message): Promise<StreamItem> {
    try {
      return await within(call, () => {
        this.#received(call, request);
        call.request = request;
        return interruptible(call, () => this.#runUnary(call, request));
      });
    } catch (error) {
      throw this.fail(call, error);
    }
  }

  /** Runs a handler of a stream, one request or many: its messages go to the outlet, then their end; at once when the call is interrupted. */
  stream(call: Call, input: () => Input, outlet: Outlet): void {
    new InterruptibleStream(call, outlet, this.#fail).run(() => this.#runStream(call, input()));
  }

  /** Turns any failure into what the client gets; a bug is logged whole, once. */
  fail(call: Call, error: unknown): RpcError {
    if (isBug(error) && !call.hasEnded) {
      this.#log.error({ err: error, requestId: call.callId, method: call.method }, "a call failed by a bug");
    }
    return rpcError(error, call.callId);
  }

  /** Looks at the tokens of all open streams again. Those whose token no longer works, or lost rights, end with that error. */
  recheckStreams(): void {
    for (const call of this.#open) {
      if (call.target.isStream && call.identify !== undefined) this.#recheck(call, call.identify);
    }
  }

  get openCalls(): number {
    return this.#open.size;
  }

  /** Refuses every call that arrives from now on, or none. Open methods (health) stay open. */
  refuseNewCalls(refusal: AppError | undefined): void {
    this.#refusal = refusal;
  }

  /** Resolves true when no call is open, or false after the time. */
  async settled(withinMs: number): Promise<boolean> {
    if (this.#open.size === 0) return true;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const timer = setTimeout(resolve, withinMs, false);
    this.#whenEmpty = () => resolve(true);
    const outcome = await promise;
    clearTimeout(timer);
    this.#whenEmpty = undefined;
    return outcome;
  }

  /** Ends every open stream with an error for its client, spread over a second: their clients come back elsewhere, not all at once. */
  async interruptStreams(error: AppError): Promise<void> {
    const streams = [...this.#open].filter((call) => call.target.isStream);
    const perStep = Math.max(50, Math.ceil(streams.length / 20));
    for (let first = 0; first < streams.length; first += perStep) {
      if (first > 0) await delay(50);
      for (const call of streams.slice(first, first + perStep)) call.interrupt(rpcError(error, call.callId));
    }
  }

  /** Ends every open call with an error for its client. */
  interruptAll(error: AppError): void {
    for (const call of this.#open) call.interrupt(rpcError(error, call.callId));
  }

  #identify(call: Call): void {
    const { headers, certificate } = call.arrival;
    const identify = this.#gate.identify({ authorization: headers.authorization, certificate });
    call.principal = identify();
    if (call.target.isStream) call.identify = identify;
  }

  #recheck(call: Call, identify: () => Principal): void {
    try {
      const principal = identify();
      const lost = call.principal.scopes.find((scope) => !principal.scopes.includes(scope));
      call.principal = principal;
      if (lost !== undefined) throw rightsLost(principal.name, lost);
    } catch (error) {
      call.interrupt(this.fail(call, error));
    }
  }

  #received(call: Call, request: Message): void {
    const { desc, metrics } = call.target;
    metrics.received();
    if (this.#log.isLevelEnabled("trace")) {
      const shown = redact(desc.input, request);
      this.#log.trace({ requestId: call.callId, method: call.method, request: shown }, "request");
    }
    this.#validation.check(desc.input, request);
  }

  async #runUnary(call: Call, request: Message): Promise<StreamItem> {
    const response = await (this.#run(call, request) as Promise<StreamItem>);
    call.target.metrics.sent();
    return response;
  }

  #runStream(call: Call, input: Input): AsyncIterable<StreamItem> | Pump<StreamItem> {
    if (Symbol.asyncIterator in input) return this.#run(call, this.#checked(call, input)) as AsyncIterable<StreamItem>;
    this.#received(call, input);
    call.request = input;
    return this.#run(call, input) as AsyncIterable<StreamItem> | Pump<StreamItem>;
  }

  /** Which handler takes and returns what was settled by `serve`; the method's kind says which form it has. */
  #run(call: Call, input: Input): object {
    return call.target.handler(input as never, call);
  }

  async *#checked(call: Call, requests: AsyncIterable<Message>): AsyncIterable<Message> {
    for await (const request of requests) {
      this.#received(call, request);
      yield request;
    }
  }

  #ended(call: Call, error: RpcError | undefined): void {
    this.#open.delete(call);
    call.release?.();
    const durationMs = performance.now() - call.startedMs;
    call.target.metrics.handled(error?.code ?? 0, durationMs);
    if (call.span !== undefined) closeSpan(call.span, call, error);
    if (error !== undefined) this.#countReason(error);
    this.#logEnd(call, error, durationMs);
    if (durationMs >= this.#slowCallMs) this.#logSlow(call, error, durationMs);
    if (this.#open.size === 0) this.#whenEmpty?.();
  }

  #countReason(error: RpcError): void {
    const reason = reasonOf(error);
    if (reason !== undefined) this.#metrics.failed(reason);
  }

  #logEnd(call: Named, error: RpcError | undefined, durationMs: number): void {
    const level = error !== undefined && notable.has(error.code) ? "info" : "debug";
    if (!this.#log.isLevelEnabled(level)) return;
    const line = level === "info" ? this.#endLines.take() : {};
    if (line !== undefined) this.#log[level]({ ...lineOf(call, error, durationMs), ...line }, "call");
  }

  #logSlow(call: Call, error: RpcError | undefined, durationMs: number): void {
    if (this.#slowCallMs === 0 || call.target.isStream || call.target.isWaiting) return;
    this.#metrics.slowCalls += 1;
    const line = this.#slowLines.take();
    if (line !== undefined) this.#log.warn({ ...lineOf(call, error, durationMs), ...line }, "slow call");
  }
}

function lineOf({ callId, method, protocol, peer, principal }: Named, error: RpcError | undefined, durationMs: number) {
  const code = error === undefined ? "OK" : Code[error.code];
  const failure = error === undefined ? {} : { error: error.rawMessage };
  return { requestId: callId, method, protocol, peer, principal: principal.name, code, durationMs, ...failure };
}

/** How something arrives that is no call. */
type NoCall = Pick<Arrival, "protocol" | "peer" | "headers"> & { readonly path: string };

/** What a line of the log tells of a call. */
type Named = Pick<Call, "callId" | "method" | "protocol" | "peer" | "principal">;

/** The request of a call, or the requests of one that streams both ways. */
export type Input = Message | AsyncIterable<Message>;

/** Refused or failing calls are worth a line; a thousand clients that hang up are not. */
const notable: ReadonlySet<Code> = new Set([
  Code.Unauthenticated,
  Code.PermissionDenied,
  Code.ResourceExhausted,
  Code.Unknown,
  Code.Internal,
  Code.DataLoss,
]);

function methodsOf(service: ServedService, metrics: Metrics): Method[] {
  return service.desc.methods.map((desc) => {
    const handler = service.handlers[desc.localName];
    if (handler === undefined) throw new Error(`${service.desc.typeName}.${desc.name} has no handler`);
    return {
      desc,
      path: `/${service.desc.typeName}/${desc.name}`,
      handler: handler.bind(service.handlers),
      isOpen: service.access === "open",
      isStream: desc.methodKind !== "unary",
      isWaiting: service.waiting.includes(desc.localName),
      isWatch: service.watches.includes(desc.localName),
      metrics: metrics.of(desc),
    };
  });
}

function timeoutOf({ protocol, timeout }: Arrival): number | undefined {
  return protocol === "connect" ? connectTimeoutMs(timeout) : grpcTimeoutMs(timeout);
}

function interruptible(call: Call, run: () => Promise<StreamItem>): Promise<StreamItem> {
  return new Promise((resolve, reject) => {
    call.whenInterrupted(reject);
    if (call.hasEnded) reject(clientGone(call.callId));
    else run().then(resolve, reject);
  });
}

function rightsLost(name: string, scope: string): AppError {
  return new AppError("permission_denied", "SCOPE_MISSING", `${name} no longer has the scope ${scope}`, {
    metadata: { scope },
  });
}
