import { constants } from "node:http2";
import type { DescMethodUnary, Message } from "@bufbuild/protobuf";
import { createRegistry, type Registry } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  createConnectRouter,
  createContextKey,
  createContextValues,
  type HandlerContext,
} from "@connectrpc/connect";
import type { UniversalHandler, UniversalHandlerFn, UniversalServerResponse } from "@connectrpc/connect/protocol";
import {
  compressionBrotli,
  compressionGzip,
  universalRequestFromNodeRequest,
  universalResponseToNodeResponse,
} from "@connectrpc/connect-node";
import type { Logger } from "pino";
import type { Call, Method, Protocol } from "./call.ts";
import { ConnectStreams, type HttpExchange } from "./connect-streams.ts";
import type { Cors } from "./cors.ts";
import { detailFiles } from "./detail-types.ts";
import { clientGone, RpcError } from "./errors.ts";
import { translateInPlace } from "./framework-errors.ts";
import { type AnyResponse, Shared } from "./handler.ts";
import { Http1Age } from "./http1-age.ts";
import { bodyOf } from "./http1-body.ts";
import type { Limits } from "./limits.ts";
import { methodUnknown } from "./malformed.ts";
import { type HttpHandler, type HttpRequest, type HttpResponse, pathOf } from "./pages.ts";
import { peerOf } from "./peer.ts";
import type { Pipeline } from "./pipeline.ts";
import { looksLikeMethod, refuseUnknownMethod } from "./unknown-method.ts";

export interface ConnectAdapterOptions {
  readonly pipeline: Pipeline;
  readonly limits: Limits;
  /** Answers what calls no method. */
  readonly pages: HttpHandler;
  readonly cors: Cors;
  readonly log: Logger;
}

/** Puts the pipeline behind connect-es: Connect, gRPC-Web and gRPC on requests of Node's HTTP/1.1 and HTTP/2 servers. */
export class ConnectAdapter {
  readonly #pipeline: Pipeline;
  readonly #limits: Limits;
  readonly #pages: HttpHandler;
  readonly #cors: Cors;
  readonly #log: Logger;
  readonly #age: Http1Age;
  readonly #streams: ConnectStreams;
  readonly #routes = new Map<string, Route>();
  #isClosing = false;

  constructor({ pipeline, limits, pages, cors, log }: ConnectAdapterOptions) {
    this.#pipeline = pipeline;
    this.#limits = limits;
    this.#pages = pages;
    this.#cors = cors;
    this.#log = log;
    this.#age = new Http1Age(limits.connectionAgeMs);
    const jsonOptions = { ignoreUnknownFields: false, registry: typesOf(pipeline) };
    const compressions = [compressionGzip, compressionBrotli];
    const router = createConnectRouter({
      acceptCompression: compressions,
      readMaxBytes: limits.messageBytes,
      writeMaxBytes: limits.messageBytes,
      jsonOptions,
      requestGate: (context) => this.#admit(context),
    });
    this.#streams = new ConnectStreams({ pipeline, limits, compressions, jsonOptions, log });
    for (const method of pipeline.methods.values()) {
      if (method.isStream) this.#routes.set(method.path, { method, handle: undefined });
      else router.rpc(method.desc as DescMethodUnary, (request, context) => this.#unary(request, context));
    }
    for (const handle of router.handlers) this.#route(handle);
  }

  /** The listener for `request` events. Never throws: what a client sends must not end the server, whatever mistake of ours it meets. */
  readonly handle: HttpHandler = (request, response) => {
    try {
      this.#answer(request, response);
    } catch (error) {
      this.#log.error({ err: error, path: pathOf(request).slice(0, 256) }, "a request failed by a bug");
      response.destroy();
    }
  };

  /** From now on HTTP/1.1 connections end with their next response. */
  closeConnections(): void {
    this.#isClosing = true;
  }

  #answer(request: HttpRequest, response: HttpResponse): void {
    // Reset in the packet that it came in: nobody waits for an answer, and no event would tell of its end.
    if ("stream" in request && (request.stream.destroyed || request.stream.closed)) return;
    if ("shouldKeepAlive" in response && (this.#isClosing || this.#age.isReached(request.socket)))
      response.shouldKeepAlive = false;
    const path = pathOf(request);
    if (looksLikeMethod(path) && this.#cors.handle(request, response)) return;
    const route = this.#routes.get(path);
    if (route !== undefined) void this.#serve(route, request, response);
    else if (looksLikeMethod(path)) this.#refuseUnknown(path, request, response);
    else this.#pages(request, response);
  }

  #route(handle: UniversalHandler): void {
    const method = this.#pipeline.methods.get(handle.requestPath);
    if (method !== undefined) this.#routes.set(handle.requestPath, { method, handle });
  }

  #refuseUnknown(path: string, request: HttpRequest, response: HttpResponse): void {
    const { headers, socket } = request;
    const arrival = { path, protocol: protocolOf(headers["content-type"]), peer: peerOf(socket).address, headers };
    refuseUnknownMethod(this.#pipeline.turnAway(arrival, methodUnknown(path)), request, response);
  }

  async #serve({ method, handle }: Route, request: HttpRequest, response: HttpResponse): Promise<void> {
    const call = this.#begin(method, request);
    const body = "stream" in request ? request : bodyOf(request, response, this.#limits);
    try {
      if (handle === undefined) await this.#stream(call, { request, body, response });
      else await this.#pass(handle, call, { request, body, response });
    } catch (error) {
      // Most often the client hung up in the middle, and so did a thousand others.
      this.#log.debug({ err: error, requestId: call.callId, method: call.method }, "a response could not be written");
      call.end(clientGone(call.callId));
      response.destroy();
    }
  }

  async #pass(handle: UniversalHandlerFn, call: Call, { request, body, response }: HttpExchange): Promise<void> {
    const exchange: Exchange = { call, isPastGate: false, transport: undefined };
    const values = createContextValues().set(exchangeKey, exchange);
    const universal = universalRequestFromNodeRequest(request, response, undefined, values);
    exchange.transport = universal.signal;
    const answer = await handle({ ...universal, body });
    if (exchange.isPastGate) await universalResponseToNodeResponse(answer, response);
    else await refuse(call, answer, response);
  }

  async #stream(call: Call, exchange: HttpExchange): Promise<void> {
    const refusal = await this.#streams.serve(call, exchange);
    if (refusal !== undefined) await refuse(call, refusal, exchange.response);
  }

  #begin(method: Method, request: HttpRequest): Call {
    const { headers } = request;
    const protocol = protocolOf(headers["content-type"]);
    const timeoutHeader = protocol === "connect" ? "connect-timeout-ms" : "grpc-timeout";
    const timeout = textOf(headers[timeoutHeader]);
    // The call keeps the deadline itself: connect-es would start a timer with it that overflows after 25 days.
    delete headers[timeoutHeader];
    const { address: peer, certificate } = peerOf(request.socket);
    const call = this.#pipeline.begin({ method, protocol, peer, certificate, headers, timeout });
    // Until the handler runs, the body is awaited, and only the connection can end that.
    call.whenInterrupted(() => reset(request));
    return call;
  }

  #admit(context: HandlerContext): void {
    const exchange = exchangeOf(context);
    exchange.isPastGate = true;
    context.responseHeader.set("x-request-id", exchange.call.callId);
    if (context.signal.aborted) throw clientGone(exchange.call.callId);
    context.signal.addEventListener("abort", () => this.#over(exchange, context.signal.reason), { once: true });
    this.#pipeline.admit(exchange.call);
  }

  // Comes exactly once for each call: connect-es aborts this signal when it is done, when it fails and when the client goes.
  #over({ call, transport }: Exchange, reason: unknown): void {
    if (transport?.aborted === true) call.end(clientGone(call.callId));
    else if (!(reason instanceof ConnectError)) call.end();
    else call.end(translateInPlace(reason, call.callId, this.#limits.messageBytes));
  }

  async #unary(request: Message, context: HandlerContext): Promise<AnyResponse> {
    const { call } = exchangeOf(context);
    try {
      const response = await this.#pipeline.unary(call, request);
      return response instanceof Shared ? response.message : response;
    } finally {
      copyHeaders(call, context);
      copyTrailers(call, context);
    }
  }
}

interface Route {
  readonly method: Method;
  /** Undefined of a method that streams. */
  readonly handle: UniversalHandlerFn | undefined;
}

/** A call that connect-es answers, and how far it is with it. */
interface Exchange {
  readonly call: Call;
  isPastGate: boolean;
  transport: AbortSignal | undefined;
}

const exchangeKey = createContextKey<Exchange | undefined>(undefined);

function exchangeOf({ values }: HandlerContext): Exchange {
  const exchange = values.get(exchangeKey);
  if (exchange === undefined) throw new Error("a call came past the adapter");
  return exchange;
}

/** Answers what is no request of any protocol. */
async function refuse(call: Call, answer: UniversalServerResponse, response: HttpResponse): Promise<void> {
  response.setHeader("x-request-id", call.callId);
  call.end(new RpcError(Code.Unknown, `HTTP status ${answer.status}`, []));
  await universalResponseToNodeResponse(answer, response);
}

/** What JSON may hold in an Any: details of errors, and what the services that are served declare. */
function typesOf({ services }: Pipeline): Registry {
  return createRegistry(...detailFiles, ...services.map(({ desc }) => desc.file));
}

function protocolOf(contentType: string | undefined): Protocol {
  if (contentType?.startsWith("application/grpc") !== true) return "connect";
  return contentType.startsWith("application/grpc-web") ? "grpc_web" : "grpc";
}

function textOf(header: string | string[] | undefined): string | undefined {
  return typeof header === "string" ? header : header?.[0];
}

function reset(request: HttpRequest): void {
  if ("stream" in request) request.stream.close(constants.NGHTTP2_CANCEL);
  else request.destroy();
}

function copyHeaders(call: Call, context: HandlerContext): void {
  call.headersSet?.forEach((value, name) => context.responseHeader.set(name, value));
}

function copyTrailers(call: Call, context: HandlerContext): void {
  call.trailersSet?.forEach((value, name) => context.responseTrailer.set(name, value));
}
