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
import { StreamAge } from "./stream-age.ts";
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
    return async (take) => {
      allowSome(principal, "list:services");
      const watcher = watcherOf(request, principal);
      const age = new StreamAge(signal, this.#clock);
      const options = {
        after: watcher.after,
        matches: watcher.concerns,
        progressIntervalMs: progressIntervalOf(request.progressInterval),
        signal: age.signal,
      };
      await this.#feed.pump(options, (item) => this.#tell(watcher, item, take));
      age.throwIfReached();
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
    for (const part of messageParts(watcher.shown.snapshot(visible), sizeOf))
      await take(this.#message(undefined, part, watcher));
    watcher.snapshotRevision = revision;
    await take(message(watcher.bookmark(item.cursor), () => ({ case: "snapshotEnd", value: {} })));
  }

  #batch(watcher: Watcher, item: FeedItem & { kind: "events" }): readonly Response[] {
    const events = item.events.filter(({ revision }) => revision > watcher.snapshotRevision);
    if (events.length === 0) return [];
    const make = () => {
      const parts = batchParts(watcher.shown.changes(events), item.cursor, sizeOf);
      return parts.map(({ things, cursor }) => this.#message(cursor, things, watcher));
    };
    // What a watcher with a filter is told depends on what it was told before: only the others see the same.
    return watcher.sharedKey === undefined
      ? make()
      : this.#batches.of(watcher.sharedKey, { events, cursor: item.cursor }, make);
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
interface Watcher {
  readonly principal: Principal;
  readonly after: Cursor | undefined;
  readonly shown: ShownServices;
  /** Those with equal looks see the same of a service, if they see it. */
  readonly look: string;
  /** Those with equal keys are told the same of the same events. */
  readonly sharedKey: string | undefined;
  readonly concerns: (event: Event) => boolean;
  /** What happened up to here is in the snapshot. */
  snapshotRevision: bigint;
  bookmark(cursor: Cursor): Cursor;
}

function watcherOf(request: WatchServicesRequest, principal: Principal): Watcher {
  const cursor = cursorFromProto(request.after);
  // The place before the first revision is a watcher that knows nothing: the snapshot tells it all at once.
  const after = cursor?.revision === 0n ? undefined : cursor;
  const look = JSON.stringify(principal.scopes);
  return {
    principal,
    after,
    shown: new ShownServices(serviceFilter(request.filter), { resumed: after !== undefined }),
    look,
    sharedKey: request.filter === "" ? look : undefined,
    concerns: ({ service }) => service !== undefined && may(principal, "list:services", service.name),
    snapshotRevision: 0n,
    bookmark({ storeUid, revision }) {
      return { storeUid, revision: revision > this.snapshotRevision ? revision : this.snapshotRevision };
    },
  };
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
