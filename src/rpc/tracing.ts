import { Code } from "@connectrpc/connect";
import {
  isSpanContextValid,
  ProxyTracerProvider,
  propagation,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  trace,
} from "@opentelemetry/api";
import type { Call } from "./call.ts";
import type { RpcError } from "./errors.ts";

/**
 * Opens the server span of a call under the trace that the client sent. Undefined while nobody has brought an SDK. A span that is not
 * recorded stands all the same for the client's decision, so that those below it are not recorded either.
 */
export function openSpan(call: Call): Span | undefined {
  const tracer = tracerInUse();
  if (tracer === undefined) return undefined;
  const parent = propagation.extract(ROOT_CONTEXT, call.arrival.headers);
  const { typeName } = call.target.desc.parent;
  const attributes = {
    "rpc.system": call.protocol === "connect" ? "connect_rpc" : "grpc",
    "rpc.service": typeName,
    "rpc.method": call.target.desc.name,
    ...peerAttributes(call.peer),
    "steward.request_id": call.callId,
  };
  const span = tracer.startSpan(call.method.slice(1), { kind: SpanKind.SERVER, attributes }, parent);
  return isSpanContextValid(span.spanContext()) ? span : undefined;
}

/** Closes the span with the code of the call. Client errors are not failures of the server and stay unset. */
export function closeSpan(span: Span, call: Call, error: RpcError | undefined): void {
  const code = error?.code ?? 0;
  const attribute = call.protocol === "connect" ? "rpc.connect_rpc.error_code" : "rpc.grpc.status_code";
  if (call.protocol !== "connect") span.setAttribute(attribute, code);
  else if (code !== 0) span.setAttribute(attribute, snakeCase(Code[code]));
  if (serverFaults.has(code)) span.setStatus({ code: SpanStatusCode.ERROR, message: error?.rawMessage ?? "" });
  span.end();
}

/** Asked for at each call: the SDK may come later than we do. */
function tracerInUse(): Tracer | undefined {
  const provider = trace.getTracerProvider();
  return provider instanceof ProxyTracerProvider
    ? provider.getDelegateTracer("steward")
    : provider.getTracer("steward");
}

/** `HOST:PORT`, or `local` on a Unix socket. */
function peerAttributes(peer: string): Record<string, string | number> {
  const colon = peer.lastIndexOf(":");
  if (colon < 0) return { "network.transport": "unix" };
  return { "network.peer.address": peer.slice(0, colon), "network.peer.port": Number(peer.slice(colon + 1)) };
}

const serverFaults: ReadonlySet<Code | 0> = new Set([
  Code.Unknown,
  Code.DeadlineExceeded,
  Code.Unimplemented,
  Code.Internal,
  Code.Unavailable,
  Code.DataLoss,
]);

function snakeCase(name: string): string {
  return name.replaceAll(/(?<=[a-z])[A-Z]/g, "_$&").toLowerCase();
}
