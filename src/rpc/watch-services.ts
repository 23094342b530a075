import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  ServiceBatchSchema,
  ServiceChangeSchema,
  ServiceChangeType,
  type WatchServicesRequest,
  WatchServicesResponseSchema,
} from "../../gen/steward/v1/service_registry_pb.ts";
import type { Clock } from "../domain/clock.ts";
import type { Cursor, Event } from "../domain/event.ts";
import { serviceFilter } from "../domain/filter.ts";
import { may, type Principal } from "../domain/principal.ts";
import type { Service } from "../domain/service.ts";
import type { FeedItem } from "../events/feed.ts";
import { allowSome } from "./allow-some.ts";
import { cursorToProto } from "./convert-event.ts";
import { serviceFor } from "./convert-service.ts";
import { type BatchFields, EncodedOnce, encodedBatch } from "./encoded-once.ts";
import { type CallContext, type Pump, Shared, type Take, takeAll } from "./handler.ts";
import { batchParts, messageParts, sizeOfService } from "./message-size.ts";
import { SharedBatches } from "./shared-batches.ts";
import { type ShownChange, ShownServices } from "./shown-services.ts";
import { streamEndMs } from "./stream-age.ts";
import { cursorFromProto, type EventFeed, openedToProto, progressIntervalOf } from "./watch-feed.ts";

type Response = Shared<typeof WatchServicesResponseSchema>;

/** What a watch needs of the registry. */
export interface SnapshotSource {
  /** All services by name, and the revision that they are true at together. */
  snapshot(): Promise<{ readonly services: readonly Service[]; readonly revision: bigint }>;
}

/** Streams services as they are and as they change. */
export class ServiceWatch {
  readonly #feed: EventFeed;
  readonly #registry: SnapshotSource;
  readonly #clock: Clock;
  readonly #batches = new SharedBatches<readonly Response[]>();
  readonly #encoded = new EncodedOnce<Service, typeof ServiceChangeSchema>(ServiceChangeSchema);

  constructor({ feed, registry, clock }: { feed: EventFeed; registry: SnapshotSource; clock: Clock }) {
    this.#feed = feed;
    this.#registry = registry;
    this.#clock = clock;
  }

  watch(request: WatchServicesRequest, { principal, signal }: CallContext): Pump<Response> {
    return (take) => {
      allowSome(principal, "list:services");
      const watcher = new Watcher(request, principal);
      const options = {
        after: watcher.after,
        select: (events: readonly Event[]) => watcher.select(events),
        progressIntervalMs: progressIntervalOf(request.progressInterval),
        follower: "watch_services",
        endMs: streamEndMs(this.#clock),
        signal,
      };
      return this.#feed.pump(options, (item) => this.#tell(watcher, item, take));
    };
  }

  #tell(watcher: Watcher, item: FeedItem, take: Take<Response>): Promise<void> | undefined {
    switch (item.kind) {
      case "opened":
        return this.#open(watcher, item, take);
      case "progress":
        return take(message(watcher.bookmark(item.cursor), () => ({ case: "progress", value: {} })));
      case "events":
        return takeAll(this.#batch(watcher, item), take);
    }
  }

  /** The feed already stands when the snapshot is taken: what it brings of before the snapshot is skipped, so there is no gap and no duplicate. */
  async #open(watcher: Watcher, item: FeedItem & { kind: "opened" }, take: Take<Response>): Promise<void> {
    const resumed = watcher.after !== undefined;
    await take(message(resumed ? item.cursor : undefined, () => ({ case: "opened", value: openedToProto(item) })));
    if (resumed) return;
    const { services, revision } = await this.#registry.snapshot();
    const visible = services.filter(({ name }) => may(watcher.principal, "list:services", name));
    for (const part of messageParts(watcher.snapshot(visible), sizeOf))
      await take(this.#message(undefined, part, watcher));
    watcher.snapshotRevision = revision;
    await take(message(watcher.bookmark(item.cursor), () => ({ case: "snapshotEnd", value: {} })));
  }

  #batch(watcher: Watcher, item: FeedItem & { kind: "events" }): readonly Response[] {
    const make = () => {
      const parts = batchParts(watcher.changes(item.events), item.cursor, sizeOf);
      return parts.map(({ things, cursor }) => this.#message(cursor, things, watcher));
    };
    // What a watcher with a filter is told depends on what it was told before: only the others see the same.
    return watcher.sharedKey === undefined ? make() : this.#batches.of(watcher.sharedKey, item, make);
  }

  #message(cursor: Cursor | undefined, changes: readonly ShownChange[], { principal, look }: Watcher): Response {
    const show = ({ type, service }: ShownChange) =>
      create(ServiceChangeSchema, { type: changeTypes[type], service: serviceFor(principal, service) });
    const encoded = () =>
      changes.map((change) => this.#encoded.of(change.service, `${change.type} ${look}`, () => show(change)));
    return message(
      cursor,
      () => ({ case: "batch", value: { changes: changes.map(show) } }),
      () => encodedBatch(fields, cursor, encoded()),
    );
  }
}

/** One watch and where it stands. */
class Watcher {
  readonly principal: Principal;
  readonly after: Cursor | undefined;
  /** Those with equal looks see the same of a service, if they see it. */
  readonly look: string;
  /** Watchers with equal keys are told the same of the same events; undefined: this one is told what no other is. */
  readonly sharedKey: string | undefined;
  /** What happened up to here is in the snapshot. */
  snapshotRevision = 0n;
  readonly #shown: ShownServices;
  #selected: readonly ShownChange[] = [];

  constructor(request: WatchServicesRequest, principal: Principal) {
    const cursor = cursorFromProto(request.after);
    // The place before the first revision is a watcher that knows nothing: the snapshot tells it all at once.
    this.after = cursor?.revision === 0n ? undefined : cursor;
    this.principal = principal;
    const isAll = request.filter === "";
    this.look = JSON.stringify(principal.scopes);
    this.sharedKey = isAll ? this.look : undefined;
    const matches = isAll ? undefined : serviceFilter(request.filter);
    this.#shown = new ShownServices(matches, { resumed: this.after !== undefined });
  }

  snapshot(services: readonly Service[]): ShownChange[] {
    return this.#shown.snapshot(services);
  }

  /** Of the events of whole revisions those of services that it may see; none if it is to be told nothing of them. */
  select(events: readonly Event[]): readonly Event[] {
    const concerning = events.filter(
      ({ revision, service, after }) =>
        revision > this.snapshotRevision &&
        after !== undefined &&
        service !== undefined &&
        may(this.principal, "list:services", service.name),
    );
    if (this.sharedKey !== undefined) return concerning;
    this.#selected = this.#shown.changes(concerning);
    return this.#selected.length === 0 ? [] : concerning;
  }

  /** What the events amount to that were selected last. */
  changes(selected: readonly Event[]): readonly ShownChange[] {
    return this.sharedKey === undefined ? this.#selected : this.#shown.changes(selected);
  }

  bookmark({ storeUid, revision }: Cursor): Cursor {
    return { storeUid, revision: revision > this.snapshotRevision ? revision : this.snapshotRevision };
  }
}

function sizeOf({ service }: ShownChange): number {
  return sizeOfService(service);
}

const fields: BatchFields = {
  cursor: WatchServicesResponseSchema.field.cursor.number,
  batch: WatchServicesResponseSchema.field.batch.number,
  element: ServiceBatchSchema.field.changes.number,
};

type Payload = NonNullable<MessageInitShape<typeof WatchServicesResponseSchema>["message"]>;

function message(cursor: Cursor | undefined, payload: () => Payload, encode?: () => Uint8Array): Response {
  const bookmark = cursor === undefined ? undefined : cursorToProto(cursor);
  return new Shared(WatchServicesResponseSchema, () => ({ cursor: bookmark, message: payload() }), encode);
}

export const changeTypes: Readonly<Record<ShownChange["type"], ServiceChangeType>> = {
  snapshot: ServiceChangeType.SNAPSHOT,
  changed: ServiceChangeType.CHANGED,
  gone: ServiceChangeType.GONE,
};
