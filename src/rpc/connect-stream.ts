import { constants } from "node:http2";
import type { Writable } from "node:stream";
import type { DescMessage } from "@bufbuild/protobuf";
import {
  type Compression,
  type EnvelopedMessage,
  encodeEnvelope,
  envelopeCompress,
} from "@connectrpc/connect/protocol";
import type { Logger } from "pino";
import type { Call } from "./call.ts";
import { clientGone, type RpcError } from "./errors.ts";
import { encodeFrame } from "./grpc-codec.ts";
import { type Codec, envelopeBytes, Shared, type StreamItem } from "./handler.ts";
import type { Outlet } from "./interruptible-stream.ts";
import type { Limits } from "./limits.ts";
import type { HttpResponse } from "./pages.ts";
import { stallTimer } from "./stalled-watch.ts";
import type { StreamProtocol } from "./stream-protocols.ts";
import { StreamWriter } from "./stream-writer.ts";

export interface ConnectStreamOptions {
  readonly call: Call;
  readonly response: HttpResponse;
  readonly protocol: StreamProtocol;
  readonly codec: Codec;
  /** One that the client takes; null: there is none. */
  readonly compression: Compression | null;
  readonly limits: Limits;
  readonly log: Logger;
}

/** The response of a call that streams, on the Connect port: headers as soon as there is something to send, messages, the end. */
export class ConnectStream implements Outlet {
  readonly #options: ConnectStreamOptions;
  // What each message needs is here: of thousands of streams no cache holds one object more.
  readonly #output: DescMessage;
  readonly #codec: Codec;
  readonly #compression: Compression | null;
  readonly #limitBytes: number;
  #writer: StreamWriter | undefined;
  #hasBegun = false;

  constructor(options: ConnectStreamOptions) {
    this.#options = options;
    const { call, response, codec, compression, limits } = options;
    this.#output = call.target.desc.output;
    this.#codec = codec;
    this.#compression = compression;
    this.#limitBytes = limits.messageBytes;
    response.on("close", () => call.end(clientGone(call.callId)));
    if (!("stream" in response)) response.on("error", ignoreLateReset);
  }

  write(item: StreamItem): Promise<void> | undefined {
    this.#begin();
    this.#writer ??= this.#newWriter();
    const [writer, compression] = [this.#writer, this.#compression];
    const frame = encodeFrame(this.#output, item, this.#limitBytes, this.#codec);
    const leastBytes = item instanceof Shared ? sharedWorthCompressing : ownWorthCompressing;
    if (compression === null || frame.length < envelopeBytes + leastBytes) return writer.write(frame);
    const envelope = { flags: 0, data: frame.subarray(envelopeBytes) };
    return compressed(envelope, compression, leastBytes).then((bytes) => writer.write(bytes));
  }

  end(error?: RpcError): void {
    const { call, response, log } = this.#options;
    this.#end(error).catch((failure: unknown) => {
      log.error({ err: failure, requestId: call.callId, method: call.method }, "a stream could not be ended");
      response.destroy();
    });
  }

  async #end(error: RpcError | undefined): Promise<void> {
    const { call, response, protocol, compression, limits } = this.#options;
    if (call.hasEnded) return;
    call.end(error);
    const writable = writableOf(response);
    if (isOver(writable)) return;
    if (call.wasInterrupted) cutUnread(response, limits.lastWordsMs);
    this.#begin();
    const end = protocol.end(new Headers(call.trailersSet), error);
    if (end.kind === "trailers") response.addTrailers(Object.fromEntries(end.trailers));
    else {
      const frame = await compressed(end.envelope, compression, ownWorthCompressing);
      if (isOver(writable)) return;
      writable.write(frame);
    }
    response.end();
  }

  #begin(): void {
    if (this.#hasBegun) return;
    const { call, response, protocol, codec, compression } = this.#options;
    if (isOver(writableOf(response))) throw clientGone(call.callId);
    response.setHeader("content-type", protocol.contentType(codec.name === "binary"));
    response.setHeader("x-request-id", call.callId);
    if (compression !== null) response.setHeader(protocol.encoding, compression.name);
    call.headersSet?.forEach((value, name) => response.setHeader(name, value));
    writeHead(response);
    this.#hasBegun = true;
  }

  #newWriter(): StreamWriter {
    const { call, response, limits } = this.#options;
    const stream = writableOf(response);
    const reset = () => cut(response, constants.NGHTTP2_ENHANCE_YOUR_CALM);
    return new StreamWriter(stream, call.signal, stallTimer(call, stream, limits.stalledMs, reset));
  }
}

// Below this compressing costs more than sending; far more if it is done for each of many watchers.
const ownWorthCompressing = 1024;
const sharedWorthCompressing = 16 * 1024;

async function compressed(
  envelope: EnvelopedMessage,
  compression: Compression | null,
  leastBytes: number,
): Promise<Uint8Array> {
  const { flags, data } = await envelopeCompress(envelope, compression, leastBytes);
  return encodeEnvelope(flags, data);
}

function writableOf(response: HttpResponse): Writable {
  return "stream" in response ? response.stream : response;
}

function isOver({ destroyed, closed }: Writable): boolean {
  return destroyed || closed;
}

// Both kinds can do it, with signatures that do not go together.
function writeHead(response: HttpResponse): void {
  if ("stream" in response) response.writeHead(200);
  else response.writeHead(200);
}

/** Ends a stream whose client does not read why it was ended, and would hold it open as long as it likes. */
function cutUnread(response: HttpResponse, afterMs: number): void {
  const timer = setTimeout(cut, afterMs, response, constants.NGHTTP2_CANCEL).unref();
  response.once("close", () => clearTimeout(timer));
}

function cut(response: HttpResponse, code: number): void {
  if ("stream" in response) response.stream.close(code);
  else response.destroy();
}

function ignoreLateReset(): void {
  // The client may go while something is written; the response closes, which is its end.
}
