import type { OutgoingHttpHeaders } from "node:http2";
import { Metadata } from "@grpc/grpc-js";
import type { Call } from "./call.ts";
import type { RpcError } from "./errors.ts";
import { statusDetails } from "./grpc-status.ts";

/** Metadata whose binary values are sent without padding, as the protocol asks of whoever sends them and grpc-js does not. */
class BareMetadata extends Metadata {
  override toHttp2Headers(): OutgoingHttpHeaders {
    const headers = super.toHttp2Headers();
    for (const name in headers) {
      const value = headers[name];
      if (name.endsWith("-bin") && value !== undefined) headers[name] = [value].flat().map(unpadded);
    }
    return headers;
  }

  /** grpc-js sends a copy, which would be none of ours; each is made for one call and needs none. */
  override clone(): this {
    return this;
  }
}

/** Without the message `OK` that grpc-js makes up for what is no failure. */
class SuccessTrailers extends BareMetadata {
  override toHttp2Headers(): OutgoingHttpHeaders {
    const headers = super.toHttp2Headers();
    headers["grpc-message"] = undefined;
    return headers;
  }
}

/** What a handler has set, as it is sent. */
export function headersOf(set: Headers | undefined): OutgoingHttpHeaders {
  return set === undefined ? {} : copyHeaders(set, new BareMetadata()).toHttp2Headers();
}

/** What precedes the response. */
export function initialMetadata(call: Call): Metadata {
  const metadata = new BareMetadata();
  metadata.set("x-request-id", call.callId);
  return copyHeaders(call.headersSet, metadata);
}

/** What follows a response that is no failure. */
export function successTrailers(call: Call): Metadata {
  return copyHeaders(call.trailersSet, new SuccessTrailers());
}

/** A failure, as grpc-js wants it. */
export function statusOf(error: RpcError, call: Call): { code: number; details: string; metadata: Metadata } {
  const metadata = copyHeaders(call.trailersSet, new BareMetadata());
  metadata.set("x-request-id", call.callId);
  if (error.details.length > 0) metadata.set("grpc-status-details-bin", statusDetails(error));
  return { code: error.code, details: error.rawMessage, metadata };
}

function copyHeaders(headers: Headers | undefined, metadata: Metadata): Metadata {
  headers?.forEach((value, name) => {
    if (!name.endsWith("-bin")) return metadata.set(name, value);
    for (const each of value.split(",")) metadata.add(name, Buffer.from(each, "base64"));
  });
  return metadata;
}

function unpadded(value: string | number): string {
  return String(value).replace(/=+$/, "");
}
