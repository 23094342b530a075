import { cors as protocolHeaders } from "@connectrpc/connect";
import { type HttpRequest, type HttpResponse, send } from "./pages.ts";

/**
 * Lets web pages of other origins call methods from a browser (CORS): those that are listed, and no other. Cookies are never looked at, so no
 * page can borrow another's rights.
 */
export class Cors {
  readonly #origins: ReadonlySet<string>;

  constructor(origins: readonly string[]) {
    this.#origins = new Set(origins);
  }

  /** Says in the response who may read it; answers the browser's question before the call (preflight) and returns whether it was one. */
  handle(request: HttpRequest, response: HttpResponse): boolean {
    const { origin } = request.headers;
    const isAllowed = origin !== undefined && this.#origins.has(origin);
    if (this.#origins.size > 0) response.setHeader("vary", "Origin");
    if (isAllowed) {
      response.setHeader("access-control-allow-origin", origin);
      response.setHeader("access-control-expose-headers", exposedHeaders);
    }
    if (request.method !== "OPTIONS" || request.headers["access-control-request-method"] === undefined) return false;
    send(response, isAllowed ? 200 : 403, isAllowed ? preflightHeaders : {}, "");
    return true;
  }
}

const exposedHeaders = [...protocolHeaders.exposedHeaders, "X-Request-Id"].join(", ");

const preflightHeaders = {
  "access-control-allow-methods": protocolHeaders.allowedMethods.join(", "),
  "access-control-allow-headers": [
    ...protocolHeaders.allowedHeaders,
    ...["Authorization", "X-Request-Id", "Traceparent", "Tracestate"],
  ].join(", "),
  "access-control-max-age": "7200",
};
