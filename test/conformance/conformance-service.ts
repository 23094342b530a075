import { setTimeout as delay } from "node:timers/promises";
import { create, createRegistry, type MessageInitShape } from "@bufbuild/protobuf";
import { type Any, anyPack, anyUnpack } from "@bufbuild/protobuf/wkt";
import { Call } from "../../src/rpc/call.ts";
import { type Detail, RpcError } from "../../src/rpc/errors.ts";
import type { CallContext, Handlers, ServedService } from "../../src/rpc/handler.ts";
import {
  BidiStreamRequestSchema,
  ConformancePayload_RequestInfoSchema,
  type ConformancePayloadSchema,
  ConformanceService,
  file_connectrpc_conformance_v1_service,
  type Header,
  IdempotentUnaryRequestSchema,
  type Error as RequestedError,
  ServerStreamRequestSchema,
  type StreamResponseDefinition,
  UnaryRequestSchema,
  type UnaryResponseDefinition,
} from "./gen/connectrpc/conformance/v1/service_pb.ts";

type Payload = MessageInitShape<typeof ConformancePayloadSchema>;
type RequestInfo = MessageInitShape<typeof ConformancePayload_RequestInfoSchema>;

/** The service of the Connect conformance suite: each request says what to answer and how to fail, and is told what arrived of it. */
const handlers: Omit<Handlers<typeof ConformanceService>, "clientStream" | "unimplemented"> = {
  unary: async (request, context) => ({
    payload: await answer(request.responseDefinition, context, anyPack(UnaryRequestSchema, request)),
  }),

  idempotentUnary: async (request, context) => ({
    payload: await answer(request.responseDefinition, context, anyPack(IdempotentUnaryRequestSchema, request)),
  }),

  async *serverStream(request, context) {
    const conversation = new Conversation(context);
    conversation.hear(request.responseDefinition, anyPack(ServerStreamRequestSchema, request));
    yield* conversation.rest();
  },

  async *bidiStream(requests, context) {
    const conversation = new Conversation(context);
    let isFullDuplex = false;
    for await (const request of requests) {
      isFullDuplex ||= request.fullDuplex;
      conversation.hear(request.responseDefinition, anyPack(BidiStreamRequestSchema, request));
      if (!isFullDuplex) continue;
      const payload = await conversation.next();
      // Who has nothing more to say ends the conversation, however it goes on on the other side.
      if (payload === undefined) break;
      yield { payload };
    }
    yield* conversation.rest();
  },
};

/** Without what no service of ours has: a stream of requests with one response, and a method without a handler, which the listeners refuse. */
export const conformanceService: ServedService = {
  desc: {
    ...ConformanceService,
    methods: ConformanceService.methods.filter(({ localName }) => localName in handlers),
  },
  handlers: handlers as unknown as ServedService["handlers"],
  access: "open",
  waiting: [],
  watches: [],
};

async function answer(
  definition: UnaryResponseDefinition | undefined,
  context: CallContext,
  request: Any,
): Promise<Payload> {
  setHeaders(definition, context);
  const requestInfo = infoOf(context, [request]);
  await delay(definition?.responseDelayMs ?? 0);
  const response = definition?.response;
  if (response?.case === "error") throw failure(response.value, requestInfo);
  return { requestInfo, ...(response?.case === "responseData" ? { data: response.value } : {}) };
}

/** A stream of responses: what was heard is told with the next one, the headers with the first. */
class Conversation {
  readonly #context: CallContext;
  #definition: StreamResponseDefinition | undefined;
  #untold: Any[] = [];
  #sent = 0;

  constructor(context: CallContext) {
    this.#context = context;
  }

  /** The first request says what to answer to all. */
  hear(definition: StreamResponseDefinition | undefined, request: Any): void {
    this.#untold.push(request);
    if (this.#definition !== undefined) return;
    this.#definition = definition;
    setHeaders(definition, this.#context);
  }

  async next(): Promise<Payload | undefined> {
    const data = this.#definition?.responseData[this.#sent];
    if (data === undefined) return undefined;
    const requestInfo = this.#tell();
    this.#sent += 1;
    await delay(this.#definition?.responseDelayMs ?? 0);
    return { data, ...(requestInfo === undefined ? {} : { requestInfo }) };
  }

  async *rest(): AsyncGenerator<{ payload: Payload }, void> {
    for (let payload = await this.next(); payload !== undefined; payload = await this.next()) yield { payload };
    if (this.#definition?.error !== undefined) throw failure(this.#definition.error, this.#tell());
  }

  #tell(): RequestInfo | undefined {
    const requests = this.#untold;
    this.#untold = [];
    if (this.#sent === 0) return infoOf(this.#context, requests);
    return requests.length === 0 ? undefined : { requests };
  }
}

function setHeaders(
  definition: Pick<UnaryResponseDefinition, "responseHeaders" | "responseTrailers"> | undefined,
  context: CallContext,
): void {
  addAll(definition?.responseHeaders ?? [], context.responseHeaders);
  addAll(definition?.responseTrailers ?? [], context.responseTrailers);
}

function addAll(from: readonly Header[], to: Headers): void {
  for (const { name, value } of from) for (const each of value) to.append(name, each);
}

function infoOf(context: CallContext, requests: Any[]): RequestInfo {
  if (!(context instanceof Call)) throw new Error("the headers are known to a Call alone");
  const requestHeaders = Object.entries(context.arrival.headers).map(([name, value]) => ({
    name,
    value: [value ?? []].flat(),
  }));
  const timeoutMs = context.timeoutMs();
  return { requestHeaders, requests, ...(timeoutMs === undefined ? {} : { timeoutMs: BigInt(Math.round(timeoutMs)) }) };
}

const registry = createRegistry(file_connectrpc_conformance_v1_service);

function failure({ code, message, details }: RequestedError, requestInfo: RequestInfo | undefined): RpcError {
  const told: Detail[] = details.map((detail) => {
    const value = anyUnpack(detail, registry);
    const desc = value === undefined ? undefined : registry.getMessage(value.$typeName);
    if (value === undefined || desc === undefined) throw new Error(`a detail of unknown type ${detail.typeUrl}`);
    return { desc, value };
  });
  if (requestInfo !== undefined)
    told.push({
      desc: ConformancePayload_RequestInfoSchema,
      value: create(ConformancePayload_RequestInfoSchema, requestInfo),
    });
  return new RpcError(code as number, message ?? "", told);
}
