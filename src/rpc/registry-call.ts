import type { Principal } from "../domain/principal.ts";
import type { CallContext } from "./handler.ts";

/** What a write is told of the call that asks for it. */
export interface RegistryCall {
  readonly principal: Principal;
  /** The client's idempotency key. */
  readonly requestId: string | undefined;
  /** Equal for equal requests; empty without a request id, which alone it serves. */
  readonly requestHash: string;
  readonly method: string;
  readonly validateOnly: boolean;
  /** Names this call in its events. */
  readonly callId: string;
  /** The network address that it came from. */
  readonly peer: string;
}

export function registryCall(
  context: CallContext,
  { requestId, validateOnly }: { readonly requestId: string; readonly validateOnly: boolean },
): RegistryCall {
  const { principal, method, callId, peer } = context;
  if (requestId === "") return { principal, requestId: undefined, requestHash: "", method, validateOnly, callId, peer };
  // A UUID is the same in upper and lower case. Source: RFC 9562, 4.
  return {
    principal,
    requestId: requestId.toLowerCase(),
    requestHash: context.requestHash(),
    method,
    validateOnly,
    callId,
    peer,
  };
}
