import { create, type MessageInitShape } from "@bufbuild/protobuf";
import * as proto from "../../gen/steward/v1/event_pb.ts";
import type { Service } from "../../gen/steward/v1/service_pb.ts";
import { invalid } from "../domain/errors.ts";
import type { Cursor, Event, EventBody, EventType } from "../domain/event.ts";
import { exitToProto } from "./convert-instance.ts";
import { routeToProto } from "./convert-route.ts";
import { conditionToProto, wishes } from "./convert-service.ts";
import { timeToProto } from "./convert-time.ts";
import { invertTable } from "./enum-table.ts";

export function cursorToProto(cursor: Cursor): proto.Cursor {
  return create(proto.CursorSchema, { storeUid: cursor.storeUid, revision: cursor.revision });
}

/** `after`: the service right after the transaction, where the caller asked for it and may see it. */
export function eventToProto(event: Event, after: Service | undefined): proto.Event {
  return create(proto.EventSchema, {
    revision: event.revision,
    index: event.index,
    time: timeToProto(event.time),
    type: eventTypes[event.body.type],
    service: event.service?.name ?? "",
    serviceUid: event.service?.uid ?? "",
    generation: BigInt(event.service?.generation ?? 0),
    actor: event.actor,
    requestId: event.requestId ?? "",
    tokenId: event.caller?.tokenId ?? "",
    peer: event.caller?.peer ?? "",
    node: event.node,
    message: event.message,
    payload: payloadOf(event.body),
    after,
  });
}

/** Throws invalid_argument for UNSPECIFIED and for types that this server does not know. */
export function eventTypesFromProto(types: readonly proto.EventType[], field: string): ReadonlySet<EventType> {
  return new Set(
    types.map((type, index) => {
      const word = typeOf.get(type);
      if (word === undefined)
        throw invalid({ field: `${field}[${index}]`, description: `is not a type of event: ${type}` });
      return word;
    }),
  );
}

type Payload = NonNullable<MessageInitShape<typeof proto.EventSchema>["payload"]>;

function payloadOf(body: EventBody): Payload {
  switch (body.type) {
    case "service_updated":
      return {
        case: "update",
        value: { paths: [...body.paths], restarts: body.restarts, rolledBackTo: body.rolledBackTo ?? 0n },
      };
    case "wish_changed":
      return { case: "wish", value: { wish: wishes[body.wish] } };
    case "instance_starting":
      return { case: "instance", value: { instanceId: body.instanceId } };
    case "instance_started":
    case "instance_ready":
    case "instance_unready":
    case "instance_stopping":
    case "instance_adopted":
    case "instance_promoted":
      return { case: "instance", value: { instanceId: body.instanceId, pid: body.pid ?? 0 } };
    case "instance_exited":
      return {
        case: "instance",
        value: { instanceId: body.instanceId, pid: body.pid ?? 0, exit: exitToProto(body.exit) },
      };
    case "instance_signalled":
      return { case: "signal", value: { instanceId: body.instanceId, signal: body.signal } };
    case "condition_raised":
    case "condition_cleared":
      return { case: "condition", value: conditionToProto(body.condition) };
    case "restart_scheduled":
    case "crash_loop_entered":
      return { case: "restart", value: { attempt: body.attempt, nextStartTime: timeToProto(body.nextStartTime) } };
    case "route_pending":
    case "route_programmed":
    case "route_degraded":
    case "route_blocked":
    case "route_removing":
    case "route_removed":
      return { case: "route", value: { route: routeToProto(body.route) } };
    case "token_issued":
    case "token_revoked":
      return { case: "token", value: { tokenId: body.tokenId } };
    case "token_rotated":
      return { case: "token", value: { tokenId: body.tokenId, replacedBy: body.replacedBy } };
    case "service_created":
    case "service_deleted":
    case "service_stopped":
    case "service_completed":
    case "service_failed":
    case "service_stop_failed":
    case "service_waiting":
    case "update_failed":
    case "service_reset":
    case "service_up":
    case "service_down":
    case "disk_full":
    case "disk_freed":
    case "routes_reconciled":
    case "proxy_up":
    case "proxy_down":
    case "server_started":
    case "server_stopped":
      return { case: undefined };
  }
}

export const eventTypes: Readonly<Record<EventType, proto.EventType>> = {
  service_created: proto.EventType.SERVICE_CREATED,
  service_updated: proto.EventType.SERVICE_UPDATED,
  service_deleted: proto.EventType.SERVICE_DELETED,
  wish_changed: proto.EventType.WISH_CHANGED,
  instance_starting: proto.EventType.INSTANCE_STARTING,
  instance_started: proto.EventType.INSTANCE_STARTED,
  instance_ready: proto.EventType.INSTANCE_READY,
  instance_unready: proto.EventType.INSTANCE_UNREADY,
  instance_stopping: proto.EventType.INSTANCE_STOPPING,
  instance_exited: proto.EventType.INSTANCE_EXITED,
  instance_adopted: proto.EventType.INSTANCE_ADOPTED,
  instance_promoted: proto.EventType.INSTANCE_PROMOTED,
  instance_signalled: proto.EventType.INSTANCE_SIGNALLED,
  restart_scheduled: proto.EventType.RESTART_SCHEDULED,
  crash_loop_entered: proto.EventType.CRASH_LOOP_ENTERED,
  service_stopped: proto.EventType.SERVICE_STOPPED,
  service_completed: proto.EventType.SERVICE_COMPLETED,
  service_failed: proto.EventType.SERVICE_FAILED,
  service_stop_failed: proto.EventType.SERVICE_STOP_FAILED,
  service_waiting: proto.EventType.SERVICE_WAITING,
  update_failed: proto.EventType.UPDATE_FAILED,
  service_reset: proto.EventType.SERVICE_RESET,
  service_up: proto.EventType.SERVICE_UP,
  service_down: proto.EventType.SERVICE_DOWN,
  condition_raised: proto.EventType.CONDITION_RAISED,
  condition_cleared: proto.EventType.CONDITION_CLEARED,
  route_pending: proto.EventType.ROUTE_PENDING,
  route_programmed: proto.EventType.ROUTE_PROGRAMMED,
  route_degraded: proto.EventType.ROUTE_DEGRADED,
  route_blocked: proto.EventType.ROUTE_BLOCKED,
  route_removing: proto.EventType.ROUTE_REMOVING,
  route_removed: proto.EventType.ROUTE_REMOVED,
  routes_reconciled: proto.EventType.ROUTES_RECONCILED,
  proxy_up: proto.EventType.PROXY_UP,
  proxy_down: proto.EventType.PROXY_DOWN,
  token_issued: proto.EventType.TOKEN_ISSUED,
  token_rotated: proto.EventType.TOKEN_ROTATED,
  token_revoked: proto.EventType.TOKEN_REVOKED,
  server_started: proto.EventType.SERVER_STARTED,
  server_stopped: proto.EventType.SERVER_STOPPED,
  disk_full: proto.EventType.DISK_FULL,
  disk_freed: proto.EventType.DISK_FREED,
};

const typeOf = invertTable(eventTypes);
