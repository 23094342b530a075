import { constants, type ServerHttp2Stream } from "node:http2";
import type { DescMessage } from "@bufbuild/protobuf";
import type { ServerDuplexStream, ServerWritableStream } from "@grpc/grpc-js";
import type { Call } from "./call.ts";
import type { RpcError } from "./errors.ts";
import { encodeFrame } from "./grpc-codec.ts";
import { initialMetadata, statusOf, successTrailers } from "./grpc-metadata.ts";
import type { StreamItem } from "./handler.ts";
import type { Outlet } from "./interruptible-stream.ts";
import type { Limits } from "./limits.ts";
import { stallTimer } from "./stalled-watch.ts";
import { StreamWriter } from "./stream-writer.ts";

export type WritableCall = ServerWritableStream<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>;

/**
 * The response of a call that streams, on the gRPC port. Headers and status are left to grpc-js, messages are not: it would frame and queue each of
 * them for each stream, which costs more than sending them.
 */
export class GrpcStream implements Outlet {
  readonly #call: Call;
  readonly #stream: ServerHttp2Stream;
  readonly #grpc: WritableCall;
  readonly #output: DescMessage;
  readonly #limitBytes: number;
  readonly #writer: StreamWriter;
  #hasBegun = false;

  constructor(
    call: Call,
    stream: ServerHttp2Stream,
    grpc: WritableCall,
    { messageBytes, stalledMs }: Pick<Limits, "messageBytes" | "stalledMs">,
  ) {
    this.#call = call;
    this.#stream = stream;
    this.#grpc = grpc;
    this.#output = call.target.desc.output;
    this.#limitBytes = messageBytes;
    const reset = () => stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
    this.#writer = new StreamWriter(stream, call.signal, stallTimer(call, stream, stalledMs, reset));
  }

  write(item: StreamItem): Promise<void> | undefined {
    this.#begin();
    return this.#writer.write(encodeFrame(this.#output, item, this.#limitBytes));
  }

  end(error?: RpcError): void {
    const call = this.#call;
    if (call.hasEnded) return;
    if (error === undefined || call.headersSet !== undefined) this.#begin();
    if (error === undefined) this.#grpc.end(successTrailers(call));
    else this.#grpc.emit("error", statusOf(error, call));
    call.end(error);
  }

  #begin(): void {
    if (this.#hasBegun) return;
    if (!this.#stream.headersSent) this.#grpc.sendMetadata(initialMetadata(this.#call));
    this.#hasBegun = true;
  }
}
