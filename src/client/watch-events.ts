import type { MessageInitShape } from "@bufbuild/protobuf";
import type { CallOptions, Client } from "@connectrpc/connect";
import type { Cursor, CursorSchema, Event } from "../../gen/steward/v1/event_pb.ts";
import type { Supervisor, WatchEventsRequestSchema } from "../../gen/steward/v1/supervisor_pb.ts";
import type { StewardError } from "./errors.ts";
import { isPlaceLost, resumed, type WatchOptions } from "./resume.ts";

export type EventsRequest = Omit<MessageInitShape<typeof WatchEventsRequestSchema>, "$typeName">;

/** What a watch of events tells. A cursor is the place to resume after, once the update is dealt with. */
export type EventsUpdate =
  /** Whole revisions. */
  | { readonly kind: "events"; readonly events: readonly Event[]; readonly cursor: Cursor }
  /** Nothing more matched up to here; also the first update of every stream. */
  | { readonly kind: "progress"; readonly cursor: Cursor }
  /** Events may have been missed for good; what follows begins with the oldest that is kept. */
  | { readonly kind: "gap"; readonly error: StewardError };

export async function* watchEvents(
  supervisor: Client<typeof Supervisor>,
  { after: from, ...request }: EventsRequest,
  options: WatchOptions,
): AsyncGenerator<EventsUpdate, void> {
  let after: MessageInitShape<typeof CursorSchema> | undefined = from;
  let held: Event[] = [];
  const open = (call: CallOptions) =>
    supervisor.watchEvents({ ...request, ...(after === undefined ? {} : { after }) }, call);
  for await (const item of resumed(open, options)) {
    if (item.kind === "interrupted") {
      held = [];
      if (!isPlaceLost(item.error)) continue;
      after = { revision: 0n };
      yield { kind: "gap", error: item.error };
      continue;
    }
    const { cursor, message } = item.message;
    if (cursor === undefined) continue;
    after = cursor;
    if (message.case !== "batch") {
      yield { kind: "progress", cursor };
      continue;
    }
    // Of a revision that is too large for one message the rest is awaited: if the stream ends before, all of it is sent again.
    held.push(...message.value.events);
    const events = held.filter(({ revision }) => revision <= cursor.revision);
    held = held.slice(events.length);
    if (events.length > 0) yield { kind: "events", events, cursor };
  }
}
