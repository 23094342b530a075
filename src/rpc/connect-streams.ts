import type { IncomingHttpHeaders } from "node:http";
import { type JsonReadOptions, type JsonWriteOptions, type Message, toJsonString } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import {
  type Compression,
  compressionNegotiate,
  createMethodSerializationLookup,
  pipe,
  type Serialization,
  transformDecompressEnvelope,
  transformParseEnvelope,
  transformSplitEnvelope,
  type UniversalServerResponse,
  uResponseMethodNotAllowed,
  uResponseUnsupportedMediaType,
  uResponseVersionNotSupported,
} from "@connectrpc/connect/protocol";
import type { Logger } from "pino";
import type { Call, Method } from "./call.ts";
import { ConnectStream } from "./connect-stream.ts";
import { RpcError } from "./errors.ts";
import { failureOfReading } from "./framework-errors.ts";
import { binaryCodec, type Codec } from "./handler.ts";
import type { Limits } from "./limits.ts";
import type { HttpRequest, HttpResponse } from "./pages.ts";
import type { Input, Pipeline } from "./pipeline.ts";
import { type StreamProtocol, streamProtocols } from "./stream-protocols.ts";

/** A request over HTTP, its body, and where the response goes. */
export interface HttpExchange {
  readonly request: HttpRequest;
  readonly body: AsyncIterable<Uint8Array>;
  readonly response: HttpResponse;
}

export interface ConnectStreamsOptions {
  readonly pipeline: Pipeline;
  readonly limits: Limits;
  readonly compressions: readonly Compression[];
  readonly jsonOptions: Partial<JsonReadOptions & JsonWriteOptions>;
  readonly log: Logger;
}

/**
 * Serves the methods that stream, in every protocol of the Connect port. connect-es reads the requests and words the end of a stream. The messages
 * between are written here: for each open stream it would keep a chain of generators that costs several times as much as the stream.
 */
export class ConnectStreams {
  readonly #options: ConnectStreamsOptions;
  readonly #protocols: readonly StreamProtocol[];
  readonly #serializations: ReadonlyMap<Method, ReturnType<typeof serializationsOf>>;
  readonly #jsonCodec: Codec;

  constructor(options: ConnectStreamsOptions) {
    this.#options = options;
    this.#protocols = streamProtocols(options.jsonOptions);
    const streams = [...options.pipeline.methods.values()].filter(({ isStream }) => isStream);
    this.#serializations = new Map(streams.map((method) => [method, serializationsOf(method, options)]));
    this.#jsonCodec = jsonCodec(options.jsonOptions);
  }

  /** Resolves when the handler runs, or with the answer to what is no request of any protocol. */
  async serve(call: Call, exchange: HttpExchange): Promise<UniversalServerResponse | undefined> {
    const { request } = exchange;
    // A client that wants to read and write at once would wait for ever.
    if (isBidi(call.target) && request.httpVersion.startsWith("1."))
      return { ...uResponseVersionNotSupported, header: new Headers({ connection: "close" }) };
    if (request.method !== "POST") return uResponseMethodNotAllowed;
    for (const protocol of this.#protocols) {
      const isBinary = protocol.isBinary(request.headers["content-type"] ?? null);
      if (isBinary === undefined) continue;
      await this.#serve(call, exchange, protocol, isBinary);
      return undefined;
    }
    return uResponseUnsupportedMediaType;
  }

  async #serve(
    call: Call,
    { request, body, response }: HttpExchange,
    protocol: StreamProtocol,
    isBinary: boolean,
  ): Promise<void> {
    const { pipeline, limits, compressions, log } = this.#options;
    const compression = negotiate(request.headers, protocol, compressions);
    const codec = isBinary ? binaryCodec : this.#jsonCodec;
    const compressed = compression.response;
    const stream = new ConnectStream({ call, response, protocol, codec, compression: compressed, limits, log });
    try {
      pipeline.admit(call);
      const serialization = this.#serializationOf(call.target, isBinary);
      const reading = { protocol, compression, serialization, callId: call.callId, limitBytes: limits.messageBytes };
      const requests = messagesOf(body, reading);
      const input = isBidi(call.target) ? requests : await onlyOf(requests);
      pipeline.stream(call, once(input), stream);
    } catch (error) {
      stream.end(pipeline.fail(call, error));
    }
  }

  #serializationOf(method: Method, isBinary: boolean): Serialization<Message> {
    const serializations = this.#serializations.get(method);
    if (serializations === undefined) throw new Error(`${method.path} does not stream`);
    return serializations.getI(isBinary);
  }
}

// Apart from the reading of the request: made there, this function would keep all of that for as long as the stream is open.
function once(input: Input): () => Input {
  return () => input;
}

function isBidi({ desc }: Method): boolean {
  return desc.methodKind === "bidi_streaming";
}

function serializationsOf({ desc, path }: Method, { jsonOptions, limits }: ConnectStreamsOptions) {
  if (desc.methodKind === "client_streaming") throw new Error(`${path}: no handler streams requests only`);
  const sizes = { readMaxBytes: limits.messageBytes, writeMaxBytes: limits.messageBytes };
  return createMethodSerializationLookup(desc, undefined, jsonOptions, sizes);
}

function jsonCodec(options: Partial<JsonWriteOptions>): Codec {
  const encode: Codec["encode"] = (schema, message) => Buffer.from(toJsonString(schema, message, options));
  return { name: "json", encode };
}

function negotiate(
  headers: IncomingHttpHeaders,
  { encoding, acceptEncoding }: StreamProtocol,
  known: readonly Compression[],
) {
  return compressionNegotiate([...known], textOf(headers[encoding]), textOf(headers[acceptEncoding]), acceptEncoding);
}

function textOf(header: string | string[] | undefined): string | null {
  return header === undefined ? null : String(header);
}

interface Reading {
  readonly protocol: StreamProtocol;
  readonly compression: ReturnType<typeof negotiate>;
  readonly serialization: Serialization<Message>;
  readonly callId: string;
  readonly limitBytes: number;
}

/** What a client sends. Fails with what of it cannot be read, or with CANCELED when the client goes. */
async function* messagesOf(
  body: AsyncIterable<Uint8Array>,
  { protocol: { endFlag }, compression, serialization, callId, limitBytes }: Reading,
): AsyncIterable<Message> {
  const parse =
    endFlag === undefined ? transformParseEnvelope(serialization) : transformParseEnvelope(serialization, endFlag);
  try {
    if (compression.error !== undefined) throw compression.error;
    const decompress = transformDecompressEnvelope(compression.request, limitBytes);
    yield* pipe(body, transformSplitEnvelope(limitBytes), decompress, parse);
  } catch (error) {
    throw failureOfReading(error, callId, limitBytes);
  }
}

async function onlyOf(requests: AsyncIterable<Message>): Promise<Message> {
  const iterator = requests[Symbol.asyncIterator]();
  const first = await iterator.next();
  if (first.done === true) throw new RpcError(Code.Unimplemented, "the method takes one request; there is none", []);
  const second = await iterator.next();
  if (second.done !== true) throw new RpcError(Code.Unimplemented, "the method takes one request; there are more", []);
  return first.value;
}
