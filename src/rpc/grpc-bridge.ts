import type { IncomingHttpHeaders, ServerHttp2Stream } from "node:http2";
import type { Message } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import {
  type handleBidiStreamingCall,
  type handleServerStreamingCall,
  type handleUnaryCall,
  type Metadata,
  type Server,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
} from "@grpc/grpc-js";
import { AppError } from "../domain/errors.ts";
import type { Call, Method } from "./call.ts";
import { clientGone, RpcError } from "./errors.ts";
import { decodeRequest, encodeFrame } from "./grpc-codec.ts";
import { closeIfUnread, placeDoor, refuseStream } from "./grpc-door.ts";
import { headersOf, initialMetadata, statusOf } from "./grpc-metadata.ts";
import { GrpcStream, type WritableCall } from "./grpc-stream.ts";
import type { Limits } from "./limits.ts";
import { methodUnknown } from "./malformed.ts";
import { peerOf } from "./peer.ts";
import type { Input, Pipeline } from "./pipeline.ts";

/**
 * Puts the pipeline behind a grpc-js server: the same handlers, gate and errors as on the Connect listener. Messages are decoded here and
 * not by grpc-js, so that a body that cannot be read gets the same error as there.
 */
export class GrpcBridge {
  readonly #pipeline: Pipeline;
  readonly #limits: Pick<Limits, "messageBytes" | "stalledMs">;
  readonly #admitted = new Map<string, Admitted>();
  #lastKey = 0;

  constructor(pipeline: Pipeline, limits: Pick<Limits, "messageBytes" | "stalledMs">) {
    this.#pipeline = pipeline;
    this.#limits = limits;
  }

  /** Serves every method of the pipeline. To be done before the server listens. */
  attach(server: Server): void {
    placeDoor(server, (stream, headers) => this.#enter(stream, headers));
    for (const method of this.#pipeline.methods.values()) this.#register(server, method);
  }

  #enter(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): IncomingHttpHeaders | undefined {
    // Reset in the packet that it came in: nobody waits for an answer, and no event would tell of its end.
    if (stream.destroyed || stream.closed) return undefined;
    const path = headers[":path"] ?? "";
    if (headers["content-type"]?.startsWith("application/grpc") !== true) return headers;
    const method = this.#pipeline.methods.get(path);
    const unfit = unfitness(headers);
    if (method !== undefined && unfit === undefined) return this.#admit(method, stream, headers);
    const why = unfit === undefined ? methodUnknown(path) : new RpcError(Code.Unimplemented, unfit, []);
    const { address: peer } = peerOf(stream.session?.socket);
    const { error, callId } = this.#pipeline.turnAway({ path, protocol: "grpc", peer, headers }, why);
    refuseStream(stream, error, callId);
    return undefined;
  }

  #admit(method: Method, stream: ServerHttp2Stream, headers: IncomingHttpHeaders): IncomingHttpHeaders | undefined {
    const { address: peer, certificate } = peerOf(stream.session?.socket);
    const call = this.#pipeline.begin({
      method,
      protocol: "grpc",
      peer,
      certificate,
      headers,
      timeout: textOf(headers["grpc-timeout"]),
    });
    const refuse = (error: RpcError) => {
      call.end(error);
      refuseStream(stream, error, call.callId);
    };
    try {
      this.#pipeline.admit(call);
    } catch (error) {
      refuse(this.#pipeline.fail(call, error));
      return undefined;
    }
    call.whenInterrupted(refuse);
    return this.#passOn(call, stream, headers);
  }

  /** What grpc-js needs to see, and the key under which its handler finds the call. Token and deadline stay here. */
  #passOn(call: Call, stream: ServerHttp2Stream, headers: IncomingHttpHeaders): IncomingHttpHeaders {
    this.#lastKey += 1;
    const key = String(this.#lastKey);
    this.#admitted.set(key, { call, stream });
    stream.on("close", () => {
      this.#admitted.delete(key);
      if (!call.hasEnded) call.end(clientGone(call.callId));
    });
    stream.on("finish", () => closeIfUnread(stream));
    const seen: IncomingHttpHeaders = {
      ":path": call.method,
      "content-type": headers["content-type"] ?? "",
      [keyHeader]: key,
    };
    const encoding = headers["grpc-encoding"];
    if (encoding !== undefined) seen["grpc-encoding"] = encoding;
    return seen;
  }

  #register(server: Server, method: Method): void {
    switch (method.desc.methodKind) {
      case "unary": {
        const handle: handleUnaryCall<Buffer, Buffer> = (grpc, respond) => void this.#unary(grpc, respond);
        server.register(method.path, handle, unchanged, unchanged, "unary");
        break;
      }
      case "server_streaming": {
        const handle: handleServerStreamingCall<Buffer, Buffer> = (grpc) => this.#serverStream(grpc);
        server.register(method.path, handle, unchanged, unchanged, "serverStream");
        break;
      }
      case "bidi_streaming": {
        const handle: handleBidiStreamingCall<Buffer, Buffer> = (grpc) => this.#bidiStream(grpc);
        server.register(method.path, handle, unchanged, unchanged, "bidi");
        break;
      }
      case "client_streaming":
        throw new Error(`${method.path}: no handler streams requests only`);
    }
  }

  async #unary(grpc: ServerUnaryCall<Buffer, Buffer>, respond: sendUnaryData<Buffer>): Promise<void> {
    const admitted = this.#admittedOf(grpc.metadata);
    if (admitted === undefined) return;
    const { call, stream } = admitted;
    try {
      const request = decodeRequest(call.target.desc.input, grpc.request, this.#limits.messageBytes);
      const response = await this.#pipeline.unary(call, request);
      const frame = encodeFrame(call.target.desc.output, response, this.#limits.messageBytes);
      // One whose client has just gone ends when its stream does.
      if (call.hasEnded || stream.closed || stream.destroyed) return;
      answer(stream, call, frame);
      call.end();
    } catch (error) {
      const failure = this.#pipeline.fail(call, error);
      if (call.headersSet !== undefined && !call.hasEnded) grpc.sendMetadata(initialMetadata(call));
      respond(statusOf(failure, call));
      call.end(failure);
    }
  }

  #serverStream(grpc: ServerWritableStream<Buffer, Buffer>): void {
    const admitted = this.#admittedOf(grpc.metadata);
    if (admitted === undefined) return;
    const { input } = admitted.call.target.desc;
    this.#stream(admitted, grpc, () => decodeRequest(input, grpc.request, this.#limits.messageBytes));
  }

  #bidiStream(grpc: ServerDuplexStream<Buffer, Buffer>): void {
    const admitted = this.#admittedOf(grpc.metadata);
    if (admitted === undefined) return;
    this.#stream(admitted, grpc, () => this.#requests(admitted.call, grpc));
  }

  async *#requests(call: Call, grpc: ServerDuplexStream<Buffer, Buffer>): AsyncIterable<Message> {
    try {
      for await (const bytes of grpc.iterator({ destroyOnReturn: false }))
        yield decodeRequest(call.target.desc.input, bytes, this.#limits.messageBytes);
    } catch (error) {
      // What is not of the message is the end of the stream: the client has gone, or grpc-js has answered what it cannot read.
      throw error instanceof AppError ? error : clientGone(call.callId);
    }
  }

  #stream({ call, stream }: Admitted, grpc: WritableCall, input: () => Input): void {
    this.#pipeline.stream(call, input, new GrpcStream(call, stream, grpc, this.#limits));
  }

  // A call whose stream is closed already has nobody to answer.
  #admittedOf(metadata: Metadata): Admitted | undefined {
    const key = String(metadata.get(keyHeader)[0]);
    const admitted = this.#admitted.get(key);
    this.#admitted.delete(key);
    return admitted?.call.hasEnded === false ? admitted : undefined;
  }
}

interface Admitted {
  readonly call: Call;
  readonly stream: ServerHttp2Stream;
}

const keyHeader = "steward-call";

/** What of a call grpc-js would take for something else than it is. */
function unfitness(headers: IncomingHttpHeaders): string | undefined {
  if (headers[":method"] !== "POST") return "a call is a POST";
  if (!/^application\/grpc(\+proto)?(;|$)/.test(headers["content-type"] ?? "")) return "messages are protobuf here";
  const encoding = headers["grpc-encoding"] ?? "identity";
  return ["identity", "gzip", "deflate"].includes(String(encoding))
    ? undefined
    : `unknown encoding ${String(encoding)}`;
}

function unchanged(bytes: Buffer): Buffer {
  return bytes;
}

/** Answers a unary call in one go. grpc-js would send the status only once the message has left, in a packet of its own. */
function answer(stream: ServerHttp2Stream, call: Call, frame: Buffer): void {
  stream.once("wantTrailers", () => {
    if (!stream.closed) stream.sendTrailers({ "grpc-status": "0", ...headersOf(call.trailersSet) });
  });
  stream.respond({ ...responseHeaders, "x-request-id": call.callId, ...headersOf(call.headersSet) }, withTrailers);
  stream.end(frame);
}

// As grpc-js sends them.
const responseHeaders = {
  ":status": 200,
  "content-type": "application/grpc+proto",
  "grpc-accept-encoding": "identity,deflate,gzip",
  "grpc-encoding": "identity",
};

const withTrailers = { waitForTrailers: true };

function textOf(header: string | string[] | undefined): string | undefined {
  return typeof header === "string" ? header : header?.[0];
}
