import { type WatchEventsRequest, WatchEventsResponseSchema } from "../../gen/steward/v1/supervisor_pb.ts";
import type { Clock } from "../domain/clock.ts";
import type { Cursor, Event } from "../domain/event.ts";
import { eventFilter } from "../domain/filter.ts";
import { may, type Principal } from "../domain/principal.ts";
import { allowSome } from "./allow-some.ts";
import { cursorToProto, eventToProto, eventTypesFromProto } from "./convert-event.ts";
import { serviceFor } from "./convert-service.ts";
import { type CallContext, Shared } from "./handler.ts";
import { batchParts, sizeOfService } from "./message-size.ts";
import { SharedBatches } from "./shared-batches.ts";
import { StreamAge } from "./stream-age.ts";
import { cursorFromProto, type EventFeed, openedToProto, progressIntervalOf } from "./watch-feed.ts";

type Response = Shared<typeof WatchEventsResponseSchema>;

/** Streams events to any number of watchers; those that see the same are sent the same message, made once. */
export class EventWatch {
  readonly #feed: EventFeed;
  readonly #clock: Clock;
  readonly #batches = new SharedBatches<readonly Response[]>();

  constructor({ feed, clock }: { feed: EventFeed; clock: Clock }) {
    this.#feed = feed;
    this.#clock = clock;
  }

  async *watch(request: WatchEventsRequest, context: CallContext): AsyncGenerator<Response, void> {
    const view = eventView(request, context.principal);
    const age = new StreamAge(context.signal, this.#clock);
    const items = this.#feed.follow({
      after: cursorFromProto(request.after),
      select: (events) => events.filter(view.matches),
      progressIntervalMs: progressIntervalOf(request.progressInterval),
      follower: "watch_events",
      signal: age.signal,
    });
    for await (const item of items) {
      switch (item.kind) {
        case "opened":
          yield message(item.cursor, { case: "opened", value: openedToProto(item) });
          break;
        case "progress":
          yield message(item.cursor, { case: "progress", value: {} });
          break;
        case "events":
          yield* this.#batches.of(view.key, item, () => batches(item, view));
          break;
      }
    }
    age.throwIfReached();
  }
}

/** What one watcher sees. Watchers with equal keys see the same. */
interface EventView {
  readonly key: string;
  readonly matches: (event: Event) => boolean;
  /** Undefined: events are shown without the services as they were after them. */
  readonly principal: Principal | undefined;
}

function eventView(request: WatchEventsRequest, principal: Principal): EventView {
  allowSome(principal, "read:events");
  if (request.includeServices) allowSome(principal, "read:services");
  const types = eventTypesFromProto(request.types, "types");
  const isAsked = eventFilter(request.filter);
  return {
    key: JSON.stringify([request.filter, [...types].sort(), request.includeServices, principal.scopes]),
    matches: (event) =>
      (types.size === 0 || types.has(event.body.type)) &&
      may(principal, "read:events", event.service?.name) &&
      isAsked(event),
    principal: request.includeServices ? principal : undefined,
  };
}

function batches(
  item: { readonly cursor: Cursor; readonly events: readonly Event[] },
  { principal }: EventView,
): Response[] {
  const sizeOf = ({ after }: Event): number =>
    512 + (principal === undefined || after === undefined ? 0 : sizeOfService(after));
  return batchParts(item.events, item.cursor, sizeOf).map(({ things, cursor }) => {
    const shown = things.map((event) => eventToProto(event, afterOf(event, principal)));
    return message(cursor, { case: "batch", value: { events: shown } });
  });
}

function afterOf({ after, body }: Event, principal: Principal | undefined): ReturnType<typeof serviceFor> | undefined {
  // Of a deleted service there is nothing after: what the event carries is its last image.
  if (after === undefined || principal === undefined || body.type === "service_deleted") return undefined;
  return may(principal, "read:services", after.name) ? serviceFor(principal, after) : undefined;
}

type Payload = NonNullable<ConstructorParameters<typeof Shared<typeof WatchEventsResponseSchema>>[1]["message"]>;

function message(cursor: Cursor, payload: Payload): Response {
  return new Shared(WatchEventsResponseSchema, { cursor: cursorToProto(cursor), message: payload });
}
