import { AsyncLocalStorage } from "node:async_hooks";
import { context, type Span, trace } from "@opentelemetry/api";

/** What is known of a call wherever something is done for it. */
export interface CurrentCall {
  readonly callId: string;
  readonly span: Span | undefined;
}

const current = new AsyncLocalStorage<CurrentCall>();

/** Runs a part of a call: what is logged meanwhile carries its id, and spans that are opened become children of its span. */
export function within<T>(call: CurrentCall, run: () => T): T {
  const { span } = call;
  if (span === undefined) return current.run(call, run);
  return context.with(trace.setSpan(context.active(), span), () => current.run(call, run));
}

/** What a line of the log says of the call that it is written in, whoever writes it; for the `mixin` of the logger. */
export function currentCall(): { requestId?: string } {
  const call = current.getStore();
  return call === undefined ? {} : { requestId: call.callId };
}
