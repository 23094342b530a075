import type { Principal } from "../../src/domain/principal.ts";
import type { CallContext } from "../../src/rpc/handler.ts";

/** A call as a handler sees it, with a client that can hang up. */
export function aCall(scopes: readonly string[] = ["*"], hangUp = new AbortController()): CallContext {
  const principal: Principal = {
    ...{ kind: "operator", name: "operator", serviceUid: undefined, tokenId: "t", tokenExpireTime: undefined },
    scopes,
  };
  return {
    principal,
    method: "/steward.v1.Supervisor/Test",
    callId: "call",
    signal: hangUp.signal,
    peer: "127.0.0.1",
    timeoutMs: () => undefined,
    requestHash: () => "hash",
    responseHeaders: new Headers(),
    responseTrailers: new Headers(),
  };
}
