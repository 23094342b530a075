import type { MessageInitShape } from "@bufbuild/protobuf";
import { EventSchema } from "../../gen/steward/v1/event_pb.ts";
import {
  EventBatchSchema,
  type WatchEventsRequest,
  WatchEventsResponseSchema,
} from "../../gen/steward/v1/supervisor_pb.ts";
import type { Clock } from "../domain/clock.ts";
import type { Cursor, Event } from "../domain/event.ts";
import { eventFilter } from "../domain/filter.ts";
import { may, type Principal } from "../domain/principal.ts";
import type { FeedItem } from "../events/feed.ts";
import { allowSome } from "./allow-some.ts";
import { cursorToProto, eventToProto, eventTypesFromProto } from "./convert-event.ts";
import { serviceFor } from "./convert-service.ts";
import { type BatchFields, EncodedOnce, encodedBatch } from "./encoded-once.ts";
import { type CallContext, type Pump, Shared, takeAll } from "./handler.ts";
import { batchParts, sizeOfService } from "./message-size.ts";
import { SharedBatches } from "./shared-batches.ts";
import { streamEndMs } from "./stream-age.ts";
import { cursorFromProto, type EventFeed, openedToProto, progressIntervalOf } from "./watch-feed.ts";

type Response = Shared<typeof WatchEventsResponseSchema>;

/** Streams events to any number of watchers; those that see the same are sent the same message, made once. */
export class EventWatch {
  readonly #feed: EventFeed;
  readonly #clock: Clock;
  readonly #batches = new SharedBatches<readonly Response[]>();
  readonly #encoded = new EncodedOnce<Event, typeof EventSchema>(EventSchema);
  readonly #views = new EventViews();

  constructor({ feed, clock }: { feed: EventFeed; clock: Clock }) {
    this.#feed = feed;
    this.#clock = clock;
  }

  watch(request: WatchEventsRequest, context: CallContext): Pump<Response> {
    return (take) => {
      const view = this.#views.of(request, context.principal);
      const options = {
        after: cursorFromProto(request.after),
        select: view.select,
        progressIntervalMs: progressIntervalOf(request.progressInterval),
        follower: "watch_events",
        endMs: streamEndMs(this.#clock),
        signal: context.signal,
      };
      return this.#feed.pump(options, (item) => takeAll(this.#responses(item, view), take));
    };
  }

  #responses(item: FeedItem, view: EventView): readonly Response[] {
    switch (item.kind) {
      case "opened":
        return [message(item.cursor, () => ({ case: "opened", value: openedToProto(item) }))];
      case "progress":
        return [message(item.cursor, () => ({ case: "progress", value: {} }))];
      case "events":
        return this.#batches.of(view.key, item, () => this.#batch(item, view));
    }
  }

  #batch(item: FeedItem & { kind: "events" }, { principal, look }: EventView): Response[] {
    const sizeOf = ({ after }: Event): number =>
      512 + (principal === undefined || after === undefined ? 0 : sizeOfService(after));
    const show = (event: Event) => eventToProto(event, afterOf(event, principal));
    return batchParts(item.events, item.cursor, sizeOf).map(({ things, cursor }) => {
      const encoded = () => things.map((event) => this.#encoded.of(event, look, () => show(event)));
      return message(
        cursor,
        () => ({ case: "batch", value: { events: things.map(show) } }),
        () => encodedBatch(fields, cursor, encoded()),
      );
    });
  }
}

/** What a watcher sees. Watchers with equal keys see the same. */
interface EventView {
  readonly key: string;
  readonly select: (events: readonly Event[]) => readonly Event[];
  /** Those with equal looks see the same of an event, if they see it. */
  readonly look: string;
  /** Undefined: events are shown without the services as they were after them. Only its scopes count. */
  readonly principal: Principal | undefined;
}

/** The views of the watchers. Those who see the same have the same, so that what is selected for one is selected for all. */
class EventViews {
  readonly #views = new Map<string, EventView>();

  of(request: WatchEventsRequest, principal: Principal): EventView {
    allowSome(principal, "read:events");
    if (request.includeServices) allowSome(principal, "read:services");
    const types = eventTypesFromProto(request.types, "types");
    const key = JSON.stringify([request.filter, [...types].sort(), request.includeServices, principal.scopes]);
    const view = this.#views.get(key) ?? eventView(request, types, principal, key);
    this.#views.delete(key);
    this.#views.set(key, view);
    const [oldest] = this.#views.keys();
    if (this.#views.size > mostViews && oldest !== undefined) this.#views.delete(oldest);
    return view;
  }
}

/** A view that is forgotten here lives on with its watchers. */
const mostViews = 256;

function eventView(
  request: WatchEventsRequest,
  types: ReadonlySet<string>,
  principal: Principal,
  key: string,
): EventView {
  const isOfType = types.size === 0 ? ofAnyType : ofTypes(types);
  const isAsked = eventFilter(request.filter);
  return {
    key,
    select: rememberingTheLast((event) => {
      return isOfType(event) && may(principal, "read:events", event.service?.name) && isAsked(event);
    }),
    look: request.includeServices ? JSON.stringify(principal.scopes) : "",
    principal: request.includeServices ? principal : undefined,
  };
}

/** Filters events. Those of the feed's that are new come to one watcher after the other as the same array. */
function rememberingTheLast(matches: (event: Event) => boolean): (events: readonly Event[]) => readonly Event[] {
  let last: { readonly events: readonly Event[]; readonly selected: readonly Event[] } | undefined;
  return (events) => {
    if (last?.events !== events) last = { events, selected: events.filter(matches) };
    return last.selected;
  };
}

function ofTypes(types: ReadonlySet<string>): (event: Event) => boolean {
  return ({ body }) => types.has(body.type);
}

function ofAnyType(): boolean {
  return true;
}

function afterOf({ after, body }: Event, principal: Principal | undefined): ReturnType<typeof serviceFor> | undefined {
  // Of a deleted service there is nothing after: what the event carries is its last image.
  if (after === undefined || principal === undefined || body.type === "service_deleted") return undefined;
  return may(principal, "read:services", after.name) ? serviceFor(principal, after) : undefined;
}

const fields: BatchFields = {
  cursor: WatchEventsResponseSchema.field.cursor.number,
  batch: WatchEventsResponseSchema.field.batch.number,
  element: EventBatchSchema.field.events.number,
};

type Payload = NonNullable<MessageInitShape<typeof WatchEventsResponseSchema>["message"]>;

function message(cursor: Cursor, payload: () => Payload, encode?: () => Uint8Array): Response {
  const make = () => ({ cursor: cursorToProto(cursor), message: payload() });
  return new Shared(WatchEventsResponseSchema, make, encode);
}
