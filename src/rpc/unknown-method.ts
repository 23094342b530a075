import { errorToJson } from "@connectrpc/connect/protocol-connect";
import { detailTypes } from "./detail-types.ts";
import type { RpcError } from "./errors.ts";
import { trailersOnly } from "./grpc-status.ts";
import { type HttpRequest, type HttpResponse, send } from "./pages.ts";

/** Whether a path has the form `/package.Service/Method`, so that its caller expects an answer of its protocol and no page. */
export function looksLikeMethod(path: string): boolean {
  return /^\/(?:\w+\.)+\w+\/\w+$/.test(path);
}

/** Answers UNIMPLEMENTED (METHOD_UNKNOWN) in the caller's protocol. */
export function refuseUnknownMethod(
  { error, callId }: { readonly error: RpcError; readonly callId: string },
  request: HttpRequest,
  response: HttpResponse,
): void {
  const contentType = request.headers["content-type"] ?? "";
  if (contentType.startsWith("application/grpc")) send(response, 200, trailersOnly(error, callId, contentType), "");
  else send(response, 404, { "content-type": "application/json", "x-request-id": callId }, connectJson(error));
}

function connectJson(error: RpcError): string {
  return JSON.stringify(errorToJson(error, { registry: detailTypes }));
}
