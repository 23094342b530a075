import { create, type DescMessage, fromBinary, type Message, toBinary } from "@bufbuild/protobuf";
import { Shared, type StreamItem } from "./handler.ts";
import { malformedBody, requestTooLarge, responseTooLarge } from "./malformed.ts";

/** Reads a request. Throws REQUEST_TOO_LARGE, MALFORMED_REQUEST. */
export function decodeRequest(schema: DescMessage, bytes: Uint8Array, limitBytes: number): Message {
  if (bytes.byteLength > limitBytes) throw requestTooLarge(limitBytes);
  try {
    return fromBinary(schema, bytes);
  } catch {
    throw malformedBody("it is not valid protobuf");
  }
}

/** Writes a response; a shared one is encoded once for all its streams. Throws an error for the caller when it is over the limit. */
export function encodeResponse(schema: DescMessage, item: StreamItem, limitBytes: number): Buffer {
  // `create` returns a message as it is and completes what is only the shape of one.
  const bytes = item instanceof Shared ? item.binary : toBinary(schema, create(schema, item));
  if (bytes.byteLength > limitBytes) throw responseTooLarge(limitBytes);
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
