import type { MessageInitShape } from "@bufbuild/protobuf";
import type { CallOptions, Client } from "@connectrpc/connect";
import type { Cursor, CursorSchema } from "../../gen/steward/v1/event_pb.ts";
import type { Service } from "../../gen/steward/v1/service_pb.ts";
import {
  type ServiceChange,
  ServiceChangeType,
  type ServiceRegistry,
  type WatchServicesRequestSchema,
} from "../../gen/steward/v1/service_registry_pb.ts";
import { isPlaceLost, resumed, type WatchOptions } from "./resume.ts";

export type ServicesRequest = Omit<MessageInitShape<typeof WatchServicesRequestSchema>, "$typeName">;

/** What a watch of services tells. A cursor is the place to resume after, once the update is dealt with. */
export type ServicesUpdate =
  /** Everything that matches, by name: it takes the place of all that was told before. */
  | { readonly kind: "snapshot"; readonly services: readonly Service[]; readonly cursor: Cursor }
  | { readonly kind: "changes"; readonly changes: readonly ChangedService[]; readonly cursor: Cursor }
  /** Nothing more matched up to here; also the first update of a stream that is resumed. */
  | { readonly kind: "progress"; readonly cursor: Cursor };

export interface ChangedService {
  /** `gone`: deleted, or no longer matching. */
  readonly type: "changed" | "gone";
  /** As it was after the change; of what is gone as it was last. */
  readonly service: Service;
}

export async function* watchServices(
  registry: Client<typeof ServiceRegistry>,
  { after: from, ...request }: ServicesRequest,
  options: WatchOptions,
): AsyncGenerator<ServicesUpdate, void> {
  let after: MessageInitShape<typeof CursorSchema> | undefined = from;
  let held: ServiceChange[] = [];
  const open = (call: CallOptions) =>
    registry.watchServices({ ...request, ...(after === undefined ? {} : { after }) }, call);
  for await (const item of resumed(open, options)) {
    if (item.kind === "interrupted") {
      held = [];
      if (isPlaceLost(item.error)) after = undefined;
      continue;
    }
    const { cursor, message } = item.message;
    if (message.case === "batch") held.push(...message.value.changes);
    if (cursor === undefined) continue;
    after = cursor;
    // What is in the middle of a revision that is too large for one message waits for the rest: if the stream ends before, all of it is sent again.
    const whole = wholeOf(held, cursor);
    held = held.slice(whole.length);
    const services = whole.flatMap(({ service }) => service ?? []);
    if (message.case === "snapshotEnd") yield { kind: "snapshot", services, cursor };
    else if (whole.length > 0) yield { kind: "changes", changes: whole.flatMap(changedService), cursor };
    else if (message.case !== "batch") yield { kind: "progress", cursor };
  }
}

function wholeOf(changes: readonly ServiceChange[], { revision }: Cursor): readonly ServiceChange[] {
  const end = changes.findIndex(({ service }) => service !== undefined && service.revision > revision);
  return end === -1 ? changes : changes.slice(0, end);
}

function changedService({ type, service }: ServiceChange): ChangedService[] {
  if (service === undefined) return [];
  return [{ type: type === ServiceChangeType.GONE ? "gone" : "changed", service }];
}
