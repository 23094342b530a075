import { Code, ConnectError } from "@connectrpc/connect";
import type { AppError } from "../domain/errors.ts";
import { clientGone, RpcError, rpcError } from "./errors.ts";
import { malformedBody, malformedJson, requestTooLarge, responseTooLarge } from "./malformed.ts";

/**
 * Gives an error that connect-es made while it read a request the code, reason and details of our table. The error is changed in place:
 * connect-es aborts the call's signal with it just before it writes it, and leaves no other moment to do so.
 */
export function translateInPlace(error: ConnectError, callId: string, limitBytes: number): RpcError {
  if (error instanceof RpcError) return error;
  const ours = rpcError(meaningOf(error, limitBytes) ?? error, callId);
  const { code, rawMessage, message, details } = ours;
  Object.assign(error, { code, rawMessage, message, details });
  return ours;
}

/** What is thrown while the requests of a stream are read, as it shall leave. What is not about a message is the end of the stream: the client has gone. */
export function failureOfReading(error: unknown, callId: string, limitBytes: number): unknown {
  if (!(error instanceof ConnectError)) return clientGone(callId);
  const meaning = meaningOf(error, limitBytes);
  return meaning === undefined ? error : rpcError(meaning, callId);
}

function meaningOf(error: ConnectError, limitBytes: number): AppError | RpcError | undefined {
  const text = error.rawMessage;
  if (text.includes("writeMaxBytes")) return responseTooLarge(limitBytes);
  if (error.code === Code.ResourceExhausted) return requestTooLarge(limitBytes);
  if (error.code === Code.InvalidArgument && text.startsWith("cannot decode")) return malformedJson(text);
  if (error.code === Code.InvalidArgument) return malformedBody(text);
  if (text.startsWith("parse binary")) return malformedBody("it is not valid protobuf");
  if (text.startsWith("decompression failed")) return malformedBody("it cannot be decompressed");
  // gRPC wants INTERNAL for a compressed message without a compression, although it is no fault of ours.
  if (text.startsWith("received compressed envelope")) return new RpcError(error.code, text, [], error);
  if (error.code === Code.Unimplemented) return unimplemented(error);
  return undefined;
}

/** Its metadata names what there is instead, compressions for example. */
function unimplemented(error: ConnectError): RpcError {
  const ours = new RpcError(error.code, error.rawMessage, [], error);
  error.metadata.forEach((value, name) => ours.metadata.set(name, value));
  return ours;
}
