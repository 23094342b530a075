import type { OutgoingHttpHeaders } from "node:http2";
import { Metadata } from "@grpc/grpc-js";

/** Metadata whose binary values are sent without padding, as the protocol asks of whoever sends them and grpc-js does not. */
export class BareMetadata extends Metadata {
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

/** What follows a response that is no failure: without the message `OK` that grpc-js makes up for it. */
export class SuccessTrailers extends BareMetadata {
  override toHttp2Headers(): OutgoingHttpHeaders {
    const headers = super.toHttp2Headers();
    headers["grpc-message"] = undefined;
    return headers;
  }
}

function unpadded(value: string | number): string {
  return String(value).replace(/=+$/, "");
}
