import { constants, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import type { Server } from "@grpc/grpc-js";
import type { RpcError } from "./errors.ts";
import { trailersOnly } from "./grpc-status.ts";

/** Looks at a call before grpc-js does. Returns the headers that grpc-js shall see, or undefined if the call has been answered. */
export type Door = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => IncomingHttpHeaders | undefined;

/**
 * Puts a door before a grpc-js server. grpc-js shows a unary call to its handler only when the body is complete, wraps long deadlines around
 * at 32 bits, and answers unknown methods without details; the only place before all that is the listener of its HTTP/2 streams.
 */
export function placeDoor(server: Server, door: Door): void {
  const serve: unknown = Reflect.get(server, streamHandler);
  if (typeof serve !== "function")
    throw new Error(`grpc-js has no ${streamHandler} any more: the door needs another place`);
  Reflect.set(
    server,
    streamHandler,
    (interceptors: unknown, stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
      const seen = door(stream, headers);
      if (seen !== undefined) serve.call(server, interceptors, stream, seen);
    },
  );
}

/** Answers a call with a failure and nothing else, whether or not its body has come. */
export function refuseStream(stream: ServerHttp2Stream, error: RpcError, callId: string): void {
  stream.on("error", ignoreLateReset);
  if (stream.closed || stream.destroyed) return;
  if (!stream.headersSent)
    stream.respond({ ":status": 200, ...trailersOnly(error, callId, "application/grpc+proto") }, { endStream: true });
  stream.close(constants.NGHTTP2_NO_ERROR);
}

/** Ends a stream that has been answered although its body goes on; to be called when the answer is complete. Its client may be waiting to send the rest. */
export function closeIfUnread(stream: ServerHttp2Stream): void {
  if (stream.readableEnded || stream.closed) return;
  const timer = setTimeout(() => stream.close(constants.NGHTTP2_NO_ERROR), lastWordsMs).unref();
  stream.once("close", () => clearTimeout(timer));
}

// Until then the status has left, which a reset would overtake.
const lastWordsMs = 500;

const streamHandler = "_streamHandler";

function ignoreLateReset(): void {
  // The client may reset a stream that has been answered; nobody waits for it.
}
