import type { DescEnum } from "@bufbuild/protobuf";
import { type Event, EventTypeSchema } from "../../../gen/steward/v1/event_pb.ts";
import { type Service, ServiceStateSchema, WishSchema } from "../../../gen/steward/v1/service_pb.ts";
import {
  type ServiceChange,
  ServiceChangeType,
  type WatchServicesResponse,
} from "../../../gen/steward/v1/service_registry_pb.ts";
import type { WatchEventsResponse } from "../../../gen/steward/v1/supervisor_pb.ts";
import type { EmbeddedConnection } from "../../../src/store/embedded-postgres.ts";
import { query } from "../../support/postgres.ts";
import type { LoggedEvent, SeenChange, SeenEvent, SeenService, ToldMessage } from "./promises.ts";

/** What clients are told and what the database holds, in the same words. */

export function eventsTold({ cursor, message }: WatchEventsResponse): ToldMessage {
  const at = { cursor: cursor?.revision };
  switch (message.case) {
    case "opened":
      return { ...at, kind: "opened", head: message.value.head };
    case "batch":
      return { ...at, kind: "events", events: message.value.events.map(eventOf) };
    case "progress":
      return { ...at, kind: "progress" };
    case undefined:
      throw new Error("a message says nothing");
  }
}

export function servicesTold({ cursor, message }: WatchServicesResponse): ToldMessage {
  const at = { cursor: cursor?.revision };
  switch (message.case) {
    case "opened":
      return { ...at, kind: "opened", head: message.value.head };
    case "batch":
      return { ...at, kind: "changes", changes: message.value.changes.map(changeOf) };
    case "snapshotEnd":
    case "progress":
      return { ...at, kind: message.case };
    case undefined:
      throw new Error("a message says nothing");
  }
}

export function serviceOf(service: Service): SeenService {
  const { name, uid, revision, generation, setName, spec, status } = service;
  return {
    ...{ name, uid, revision, generation, setName },
    kind: spec?.kind.case ?? "",
    wish: word(WishSchema, service.wish),
    state: word(ServiceStateSchema, status?.state),
    ready: status?.ready ?? false,
    pid: status?.pid ?? 0,
    instanceId: status?.instanceId ?? "",
    labels: spec?.labels ?? {},
  };
}

function eventOf(event: Event): SeenEvent & { readonly after: SeenService | undefined } {
  const { revision, index, service, serviceUid, generation, actor, requestId, node, message, after } = event;
  return {
    ...{ revision, index, service, serviceUid, generation, actor, requestId, node, message },
    type: word(EventTypeSchema, event.type),
    after: after === undefined ? undefined : serviceOf(after),
  };
}

function changeOf({ type, service }: ServiceChange): SeenChange {
  if (service === undefined) throw new Error("a change has no service");
  const word = changeTypes.get(type);
  if (word === undefined) throw new Error(`a change is ${type}`);
  return { type: word, service: serviceOf(service) };
}

const changeTypes: ReadonlyMap<ServiceChangeType, SeenChange["type"]> = new Map([
  [ServiceChangeType.SNAPSHOT, "snapshot"],
  [ServiceChangeType.CHANGED, "changed"],
  [ServiceChangeType.GONE, "gone"],
]);

function word(of: DescEnum, value: number | undefined): string {
  return of.value[value ?? 0]?.localName.toLowerCase() ?? `number ${value}`;
}

/** The whole log, read past the server. */
export async function readLog(connection: EmbeddedConnection): Promise<LoggedEvent[]> {
  const rows = await query(
    connection,
    `SELECT revision::text, index, body ->> 'type' AS type, service, service_uid, generation::text, actor, request_id, node, message,
            COALESCE(octet_length((after -> 'spec')::text), 0) AS spec_bytes, after #- '{spec,info}' AS after
       FROM events ORDER BY events.revision, index`,
  );
  return (rows as unknown as EventRow[]).map((row) => ({
    revision: BigInt(row.revision),
    index: row.index,
    type: row.type,
    service: row.service ?? "",
    serviceUid: row.service_uid ?? "",
    generation: BigInt(row.generation ?? 0),
    actor: row.actor,
    requestId: row.request_id ?? "",
    node: row.node,
    message: row.message,
    bytes: 1_024 + row.spec_bytes,
    after: row.after === null ? undefined : serviceOfImage(row, row.after),
  }));
}

/** The newest revision, read past the server. */
export async function readHead(connection: EmbeddedConnection): Promise<bigint> {
  const [row] = await query(connection, "SELECT head::text FROM store");
  return BigInt(String(row?.["head"]));
}

interface EventRow {
  readonly revision: string;
  readonly index: number;
  readonly type: string;
  readonly service: string | null;
  readonly service_uid: string | null;
  readonly generation: string | null;
  readonly actor: string;
  readonly request_id: string | null;
  readonly node: string;
  readonly message: string;
  readonly spec_bytes: number;
  readonly after: Image | null;
}

interface Image {
  readonly name: string;
  readonly uid: string;
  readonly revision: string;
  readonly generation: number;
  readonly wish: string;
  readonly setName: string;
  readonly spec: { readonly kind: { readonly type: string }; readonly labels: Readonly<Record<string, string>> };
  readonly status: {
    readonly state: string;
    readonly ready: boolean;
    readonly pid?: number;
    readonly instanceId?: string;
  };
}

function serviceOfImage(
  { type, revision: ofRow }: EventRow,
  { name, uid, revision, generation, wish, setName, spec, status }: Image,
): SeenService {
  return {
    ...{ name, uid, wish, setName },
    // A removal is the last transaction that changed it, and leaves no row to say so.
    revision: BigInt(type === "service_deleted" ? ofRow : revision),
    generation: BigInt(generation),
    kind: spec.kind.type,
    state: status.state,
    ready: status.ready,
    pid: status.pid ?? 0,
    instanceId: status.instanceId ?? "",
    labels: spec.labels,
  };
}
