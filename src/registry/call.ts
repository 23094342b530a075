import { AppError, invalid } from "../domain/errors.ts";
import type { NewEvent } from "../domain/event.ts";
import type { Principal } from "../domain/principal.ts";
import { etagOf, type Service } from "../domain/service.ts";

/** What a write knows of the call that asks for it. */
export interface Call {
  readonly principal: Principal;
  /** The client's idempotency key. */
  readonly requestId: string | undefined;
  /** Equal for equal requests. */
  readonly requestHash: string;
  readonly method: string;
  /** Check everything, change nothing. */
  readonly validateOnly: boolean;
  /** Names this call in its events. */
  readonly callId: string;
  /** The network address that it came from. */
  readonly peer: string;
}

/** An event of this call, of a service or of none. */
export function eventOf(
  call: Call,
  service: Pick<Service, "name" | "uid" | "generation"> | undefined,
  body: NewEvent["body"],
  message: string,
): NewEvent {
  return {
    body,
    service:
      service === undefined ? undefined : { name: service.name, uid: service.uid, generation: service.generation },
    actor: call.principal.name,
    requestId: call.requestId ?? call.callId,
    caller: { tokenId: call.principal.tokenId, peer: call.peer },
    message,
  };
}

/** Throws aborted unless the etag is empty or the service's. Source: AIP-154. */
export function checkEtag(service: Service, etag: string): void {
  const actual = etagOf(service);
  if (etag === "" || etag === actual) return;
  throw new AppError("aborted", "ETAG_MISMATCH", `somebody else changed ${service.name}; read it again`, {
    metadata: { service: service.name, expected: etag, actual },
    resource: { type: "service", name: service.name },
  });
}

/** Throws unless clients may still change the service. */
export function checkNotDeleting(service: Service): void {
  if (service.wish !== "deleted") return;
  throw new AppError("failed_precondition", "SERVICE_DELETING", `${service.name} is being deleted`, {
    metadata: { service: service.name, state: service.status.state },
    resource: { type: "service", name: service.name },
  });
}

export function requestIdReused(): AppError {
  const description = "was used before with another request; every new request needs a new one";
  const { message, violations } = invalid({ field: "request_id", description });
  return new AppError("invalid_argument", "REQUEST_ID_REUSED", message, { violations });
}
