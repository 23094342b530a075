import { randomUUID } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import type { DescMessage, DescMethod, MessageShape } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import type { Span } from "@opentelemetry/api";
import type { ClientCertificate, Principal } from "../domain/principal.ts";
import { within } from "./current-call.ts";
import { deadlineExceeded, type RpcError } from "./errors.ts";
import { anybody } from "./gate.ts";
import type { AnyHandler, CallContext } from "./handler.ts";
import type { MethodMetrics } from "./metrics.ts";
import { requestHash } from "./request-hash.ts";

export type Protocol = "connect" | "grpc" | "grpc_web";

/** A method that is served: its descriptor, who answers, and what is prepared once for all its calls. */
export interface Method {
  readonly desc: DescMethod;
  /** `/package.Service/Method`. */
  readonly path: string;
  readonly handler: AnyHandler;
  readonly isOpen: boolean;
  readonly isStream: boolean;
  /** Whether its calls take as long as what they wait for. */
  readonly isWaiting: boolean;
  /** Whether its streams end if their client stops reading. */
  readonly isWatch: boolean;
  readonly metrics: MethodMetrics;
}

/** How a call arrives at either listener: the headers are here, the body is not. */
export interface Arrival {
  readonly method: Method;
  readonly protocol: Protocol;
  readonly peer: string;
  readonly headers: IncomingHttpHeaders;
  /** What the client of a TLS connection showed, and our client CA signed. */
  readonly certificate: ClientCertificate | undefined;
  /** The protocol's timeout header as it came. */
  readonly timeout: string | undefined;
}

/**
 * One call from its headers to its end, the same for both listeners. It has exactly one end, whoever comes first: the handler, the client,
 * the deadline, the drain. Its signal is made only if somebody asks for it.
 */
export class Call implements CallContext {
  readonly arrival: Arrival;
  readonly target: Method;
  readonly callId: string;
  readonly startedMs: number;
  principal: Principal = anybody;
  /** Who calls, now. Kept for streams only, whose token is looked at again while they are open. */
  identify: (() => Principal) | undefined;
  span: Span | undefined;
  /** Gives back what the call holds of a quota. */
  release: (() => void) | undefined;
  request: MessageShape<DescMessage> | undefined;
  readonly #onEnd: (call: Call, error: RpcError | undefined) => void;
  #controller: AbortController | undefined;
  #headers: Headers | undefined;
  #trailers: Headers | undefined;
  #interrupted: RpcError | undefined;
  #onInterrupt: ((error: RpcError) => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  #deadlineMs: number | undefined;
  #hasEnded = false;

  constructor(arrival: Arrival, startedMs: number, onEnd: (call: Call, error: RpcError | undefined) => void) {
    this.arrival = arrival;
    this.target = arrival.method;
    this.callId = callIdOf(arrival.headers["x-request-id"]);
    this.startedMs = startedMs;
    this.#onEnd = onEnd;
  }

  get method(): string {
    return this.target.path;
  }

  get peer(): string {
    return this.arrival.peer;
  }

  get protocol(): Protocol {
    return this.arrival.protocol;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** Whether it was ended, or is about to be, by somebody else than its handler and its client. */
  get wasInterrupted(): boolean {
    return this.#interrupted !== undefined;
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#interrupted !== undefined) this.#controller.abort(this.#interrupted);
      else if (this.#hasEnded) this.#controller.abort(callOver);
    }
    return this.#controller.signal;
  }

  get responseHeaders(): Headers {
    this.#headers ??= new Headers();
    return this.#headers;
  }

  get responseTrailers(): Headers {
    this.#trailers ??= new Headers();
    return this.#trailers;
  }

  /** The headers that the handler set, if it set any. */
  get headersSet(): Headers | undefined {
    return this.#headers;
  }

  get trailersSet(): Headers | undefined {
    return this.#trailers;
  }

  timeoutMs(): number | undefined {
    return this.#deadlineMs === undefined ? undefined : Math.max(0, this.#deadlineMs - performance.now());
  }

  requestHash(): string {
    if (this.request === undefined) throw new Error(`${this.method} has no single request to hash`);
    return requestHash(this.method, this.target.desc.input, this.request);
  }

  /** Interrupts the call when the time is over. */
  expireAfter(timeoutMs: number): void {
    this.#deadlineMs = performance.now() + timeoutMs;
    this.#timer = setTimeout(() => this.interrupt(deadlineExceeded(this.callId)), timeoutMs);
    this.#timer.unref();
  }

  /** Says who answers the client if the call is interrupted from now on; told at once if it already was. */
  whenInterrupted(answer: (error: RpcError) => void): void {
    this.#onInterrupt = answer;
    if (this.#interrupted !== undefined) answer(this.#interrupted);
  }

  /** Ends the call from outside, with an error for the client; the handler learns it from its signal. */
  interrupt(error: RpcError): void {
    if (this.#hasEnded || this.#interrupted !== undefined) return;
    this.#interrupted = error;
    this.#abort(error);
    this.#onInterrupt?.(error);
  }

  /** The call is over. The first end counts; if the client went after an interruption, or was cut by it, the interruption. */
  end(error?: RpcError): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    clearTimeout(this.#timer);
    this.#onInterrupt = undefined;
    this.#abort(error ?? callOver);
    const saysWhy = error !== undefined && error.code !== Code.Canceled;
    this.#onEnd(this, saysWhy ? error : (this.#interrupted ?? error));
  }

  /** Whoever listens still does so for this call. */
  #abort(reason: Error): void {
    const controller = this.#controller;
    if (controller !== undefined) within(this, () => controller.abort(reason));
  }
}

// One for all: an abort without a reason makes a DOMException with a stack, a tenth of the cost of a small call.
const callOver = new Error("the call is over");

/** The id that names a call: the client's, if it sent one that can be, else a new one. */
export function callIdOf(header: string | string[] | undefined): string {
  return typeof header === "string" && /^[\w.:-]{8,64}$/.test(header) ? header : randomUUID();
}
