import { Code } from "@connectrpc/connect";
import { context, propagation, ROOT_CONTEXT, type Span, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import type { Call } from "./call.ts";
import type { RpcError } from "./errors.ts";

const tracer = trace.getTracer("steward");

/** Opens the server span of a call under the trace that the client sent. Undefined when nobody records: the API alone does nothing. */
export function openSpan(call: Call): Span | undefined {
  const parent = propagation.extract(ROOT_CONTEXT, call.arrival.headers);
  const span = tracer.startSpan(call.method.slice(1), { kind: SpanKind.SERVER }, parent);
  if (!span.isRecording()) return undefined;
  span.setAttributes({
    "rpc.system": call.protocol === "connect" ? "connect_rpc" : "grpc",
    "rpc.service": call.target.desc.parent.typeName,
    "rpc.method": call.target.desc.name,
    "network.peer.address": call.peer,
    "steward.call_id": call.callId,
  });
  return span;
}

/** Runs the handler inside the call's span, so that spans it opens become children. */
export function within<T>(span: Span | undefined, run: () => T): T {
  return span === undefined ? run() : context.with(trace.setSpan(context.active(), span), run);
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
