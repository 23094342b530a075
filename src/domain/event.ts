import type { Route } from "./route.ts";
import type { Service, Wish } from "./service.ts";
import type { Condition, InstanceExit } from "./status.ts";

/** A place in the log of one store: everything up to and including `revision`. */
export interface Cursor {
  readonly storeUid: string;
  readonly revision: bigint;
}

/** What is in the order of revisions, one revision after the other. */
export function* byRevision<T extends { readonly revision: bigint }>(
  things: readonly T[],
): Generator<readonly T[], void> {
  let start = 0;
  for (let end = 1; end <= things.length; end++) {
    if (things[end]?.revision === things[start]?.revision) continue;
    yield things.slice(start, end);
    start = end;
  }
}

/** Something that happened, before the log has numbered it. */
export interface NewEvent {
  readonly body: EventBody;
  /** What it happened to; undefined for events of the node or the proxy. */
  readonly service: { readonly name: string; readonly uid: string; readonly generation: number } | undefined;
  /** `operator`, a service's name, or `steward`. */
  readonly actor: string;
  readonly requestId: string | undefined;
  /** From where the request came that caused it; undefined if none did. */
  readonly caller?: Caller | undefined;
  /** One sentence for people. Never a secret. */
  readonly message: string;
}

/** With which token and from which network address a request was made. */
export interface Caller {
  readonly tokenId: string;
  readonly peer: string;
}

/** Something that happened, in the log for good. */
export interface Event extends NewEvent {
  readonly revision: bigint;
  /** The place among the events of its transaction, from 0. */
  readonly index: number;
  readonly time: Date;
  readonly node: string;
  /** The service right after the transaction; undefined for events that are of no service, and once it is deleted. Of service_deleted: as it was last, at the revision of its removal. */
  readonly after: Service | undefined;
}

export type EventType = EventBody["type"];

/** What happened, with what else is known of it. The types are those of the proto enum EventType, in lower case. */
export type EventBody =
  | { readonly type: "service_created" }
  | {
      readonly type: "service_updated";
      readonly paths: readonly string[];
      readonly restarts: boolean;
      /** The revision whose spec it was given again. */
      readonly rolledBackTo?: bigint | undefined;
    }
  | { readonly type: "service_deleted" }
  | { readonly type: "wish_changed"; readonly wish: Wish }
  | { readonly type: "instance_starting"; readonly instanceId: string }
  | { readonly type: "instance_started"; readonly instanceId: string; readonly pid: number | undefined }
  | { readonly type: "instance_ready"; readonly instanceId: string; readonly pid: number | undefined }
  | { readonly type: "instance_unready"; readonly instanceId: string; readonly pid: number | undefined }
  | { readonly type: "instance_stopping"; readonly instanceId: string; readonly pid: number | undefined }
  | {
      readonly type: "instance_exited";
      readonly instanceId: string;
      readonly pid: number | undefined;
      readonly exit: InstanceExit;
    }
  | { readonly type: "instance_adopted"; readonly instanceId: string; readonly pid: number | undefined }
  | { readonly type: "instance_promoted"; readonly instanceId: string; readonly pid: number | undefined }
  | { readonly type: "instance_signalled"; readonly instanceId: string; readonly signal: string }
  | { readonly type: "restart_scheduled"; readonly attempt: number; readonly nextStartTime: Date }
  | { readonly type: "crash_loop_entered"; readonly attempt: number; readonly nextStartTime: Date }
  | { readonly type: "service_stopped" }
  | { readonly type: "service_completed" }
  | { readonly type: "service_failed" }
  | { readonly type: "service_stop_failed" }
  | { readonly type: "service_waiting" }
  | { readonly type: "update_failed" }
  | { readonly type: "service_reset" }
  | { readonly type: "service_up" }
  | { readonly type: "service_down" }
  | { readonly type: "condition_raised"; readonly condition: Condition }
  | { readonly type: "condition_cleared"; readonly condition: Condition }
  | { readonly type: "route_pending"; readonly route: Route }
  | { readonly type: "route_programmed"; readonly route: Route }
  | { readonly type: "route_degraded"; readonly route: Route }
  | { readonly type: "route_blocked"; readonly route: Route }
  | { readonly type: "route_removing"; readonly route: Route }
  | { readonly type: "route_removed"; readonly route: Route }
  | { readonly type: "routes_reconciled" }
  | { readonly type: "proxy_up" }
  | { readonly type: "proxy_down" }
  | { readonly type: "token_issued"; readonly tokenId: string }
  | { readonly type: "token_rotated"; readonly tokenId: string; readonly replacedBy: string }
  | { readonly type: "token_revoked"; readonly tokenId: string }
  | { readonly type: "server_started" }
  | { readonly type: "server_stopped" }
  | { readonly type: "disk_full" }
  | { readonly type: "disk_freed" };
