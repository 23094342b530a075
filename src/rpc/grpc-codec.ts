import { create, type DescMessage, fromBinary, type Message } from "@bufbuild/protobuf";
import { binaryCodec, envelopeBytes, framed, Shared, type StreamItem } from "./handler.ts";
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

/** Writes a message as it is sent; a shared one is encoded once for all who get it. Throws an error for the caller when it is over the limit. */
export function encodeFrame(schema: DescMessage, item: StreamItem, limitBytes: number, codec = binaryCodec): Buffer {
  const frame = item instanceof Shared ? item.frame(codec) : framed(codec.encode(schema, create(schema, item)));
  if (frame.length > envelopeBytes + limitBytes) throw responseTooLarge(limitBytes);
  return frame;
}
