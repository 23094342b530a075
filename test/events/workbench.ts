import { expect } from "vitest";
import type { Cursor, Event } from "../../src/domain/event.ts";
import { type EventSource, Feed, type FeedItem, type FeedOptions, type FollowOptions } from "../../src/events/feed.ts";
import type { Store } from "../../src/store/store.ts";
import { atEnd } from "../store/workbench.ts";

/** A started feed of a store, with what it reported as failed and after which revisions it read the store. */
export async function startFeed(
  store: Store,
  ring: Pick<FeedOptions, "ringSize" | "ringBytes"> = {},
): Promise<{ feed: Feed; failures: unknown[]; reads: bigint[] }> {
  const failures: unknown[] = [];
  const reads: bigint[] = [];
  const source = sourceOf(store);
  const readAfter = (revision: bigint, limit: number) => {
    reads.push(revision);
    return source.readAfter(revision, limit);
  };
  const onFailure = (error: unknown) => failures.push(error);
  const feed = new Feed({ ...source, readAfter }, { ...ring, storeUid: store.storeUid, onFailure });
  atEnd(() => feed.stop());
  await feed.start();
  return { feed, failures, reads };
}

export function sourceOf({ events, wakeups }: Store): EventSource {
  return {
    readAfter: (revision, limit) => events.readAfter(revision, limit),
    bounds: () => events.bounds(),
    onAppended: (listener) => wakeups.onAppended(listener),
  };
}

/** One reader of a feed: checks what every reader is promised while it reads, and keeps what it got. */
export class Follower {
  readonly events: Event[] = [];
  /** Resolves when it has the "opened" item; a follower that is refused is rejected here, too. */
  readonly opened: Promise<bigint>;
  /** Resolves when it was ended by its reader, rejects with what ended it otherwise. */
  readonly ended: Promise<void>;
  cursor: Cursor | undefined;
  readonly #stopping = new AbortController();
  readonly #opened = Promise.withResolvers<bigint>();
  #wanted: { readonly revision: bigint; readonly reached: () => void }[] = [];

  constructor(feed: Feed, options: Omit<FollowOptions, "signal">, pause: () => Promise<void> = async () => undefined) {
    this.opened = this.#opened.promise;
    this.opened.catch(() => undefined);
    this.ended = this.#read(feed.follow({ ...options, signal: this.#stopping.signal }), pause);
    this.ended.catch((error: unknown) => this.#opened.reject(error));
  }

  /** Resolves once everything up to the revision was delivered. */
  async reached(revision: bigint): Promise<void> {
    if ((this.cursor?.revision ?? -1n) >= revision) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wanted.push({ revision, reached: resolve });
    await Promise.race([promise, this.ended]);
    if ((this.cursor?.revision ?? -1n) < revision) throw new Error(`it ended before revision ${revision}`);
  }

  /** Ends it from the reader's side. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.ended;
  }

  async #read(items: AsyncIterable<FeedItem>, pause: () => Promise<void>): Promise<void> {
    for await (const item of items) {
      if (item.kind === "events") this.#take(item.events, item.cursor);
      expect(item.cursor.revision >= (this.cursor?.revision ?? 0n)).toBe(true);
      this.cursor = item.cursor;
      this.#opened.resolve(item.cursor.revision);
      for (const { revision, reached } of this.#wanted) if (revision <= item.cursor.revision) reached();
      this.#wanted = this.#wanted.filter(({ revision }) => revision > item.cursor.revision);
      await pause();
    }
  }

  /** Ordered, unique, whole revisions, and a bookmark that covers them and no more. */
  #take(events: readonly Event[], cursor: Cursor): void {
    const last = this.cursor?.revision ?? 0n;
    expect(events.length).toBeGreaterThan(0);
    for (const { revision } of events) expect(revision > last && revision <= cursor.revision).toBe(true);
    const places = events.map(({ revision, index }) => [revision, index] as const);
    expect(places).toEqual(places.toSorted(([r, i], [s, j]) => (r === s ? i - j : r < s ? -1 : 1)));
    this.events.push(...events);
  }
}
