import { AppError, invalid } from "../domain/errors.ts";
import { byRevision, type Cursor, type Event } from "../domain/event.ts";
import { decodePageToken, encodePageToken, pageSizeOf } from "../domain/page.ts";

/** What listing events needs of the store. Revisions are dense. */
export interface StoredEvents {
  /** The next `limit` events after `revision`, and what else there is of their revisions: whole and in order. */
  readAfter(revision: bigint, limit: number): Promise<readonly Event[]>;
  /** The newest `limit` events before `revision`, newest first. */
  readBefore(revision: bigint, limit: number): Promise<readonly Event[]>;
  bounds(): Promise<{ readonly head: bigint; readonly oldest: bigint }>;
}

export interface EventQuery {
  readonly pageSize: number;
  readonly pageToken: string;
  /** The text of the filter, which the pages of a list share. */
  readonly filter: string;
  readonly matches: (event: Event) => boolean;
  readonly after: Cursor | undefined;
  readonly since: Date | undefined;
  readonly signal: AbortSignal;
}

export interface EventPage {
  readonly events: readonly Event[];
  readonly nextPageToken: string;
  /** What the page is true at: a watch after it misses nothing. */
  readonly cursor: Cursor;
}

const eventsAPage = 256;
const eventsARead = 1_000;
/** A page is given out after so many events were looked at, full or not: a rare filter shall not keep the caller waiting. */
const lookedAtForAPage = 50_000;
/** Clocks of several servers differ: where to begin is searched this much earlier. */
const clockSlackMs = 60_000;

/** Reads the log for people: pages from the oldest, and the newest of what matches. */
export class EventLog {
  readonly #store: StoredEvents;
  readonly #storeUid: string;

  constructor(store: StoredEvents, storeUid: string) {
    this.#store = store;
    this.#storeUid = storeUid;
  }

  async page(query: EventQuery): Promise<EventPage> {
    const size = pageSizeOf(query);
    const list = listOf(query);
    const { head, oldest } = await this.#store.bounds();
    let position = await this.#begin(query, decodePageToken(list, query.pageToken), { head, oldest });
    const events: Event[] = [];
    for (let lookedAt = 0; position < head && lookedAt < lookedAtForAPage; ) {
      query.signal.throwIfAborted();
      const read = await this.#store.readAfter(position, eventsAPage);
      // What was read may have been thinned out meanwhile.
      this.#checked(position, await this.#store.bounds());
      lookedAt += read.length;
      for (const revision of byRevision(read.filter((event) => event.revision <= head))) {
        events.push(...revision.filter(query.matches));
        position = revision[0]?.revision ?? position;
        if (events.length >= size)
          return this.#page(events, position < head ? encodePageToken(list, String(position)) : "", head);
      }
      if (read.length === 0) position = head;
    }
    return this.#page(events, position < head ? encodePageToken(list, String(position)) : "", head);
  }

  /** The newest events that match, oldest first. */
  async tail(count: number, { matches, signal }: Pick<EventQuery, "matches" | "signal">): Promise<EventPage> {
    const { head } = await this.#store.bounds();
    const newestFirst: Event[] = [];
    for await (const events of this.#backwards(head)) {
      signal.throwIfAborted();
      newestFirst.push(...events.filter(matches));
      if (newestFirst.length >= count) break;
    }
    return this.#page(newestFirst.slice(0, count).reverse(), "", head);
  }

  async *#backwards(head: bigint): AsyncGenerator<readonly Event[], void> {
    for (let before = head + 1n; ; ) {
      const read = await this.#store.readBefore(before, eventsARead);
      const last = read.at(-1);
      if (last === undefined) return;
      if (read.length < eventsARead) return yield read;
      // The last revision may be cut: it is read whole the next time, or now if there is no other.
      const whole = read.filter(({ revision }) => revision > last.revision);
      if (whole.length > 0) {
        yield whole;
        before = last.revision + 1n;
      } else {
        yield (await this.#store.readAfter(last.revision - 1n, 1)).toReversed();
        before = last.revision;
      }
    }
  }

  async #begin(
    { after, since }: EventQuery,
    pageStart: string | undefined,
    bounds: { readonly head: bigint; readonly oldest: bigint },
  ): Promise<bigint> {
    if (pageStart !== undefined) return this.#checked(BigInt(pageStart), bounds);
    if (after !== undefined && after.storeUid !== "" && after.storeUid !== this.#storeUid)
      throw storeChanged(this.#storeUid);
    const start = after === undefined || after.revision === 0n ? bounds.oldest : this.#checked(after.revision, bounds);
    return since === undefined ? start : this.#search(start, bounds.head, new Date(since.getTime() - clockSlackMs));
  }

  /** The last revision of before a time, found by halving: revisions are dense and nearly in the order of time. */
  async #search(start: bigint, head: bigint, time: Date): Promise<bigint> {
    let [low, high] = [start, head];
    while (low < high) {
      const middle = (low + high) / 2n;
      const [next] = await this.#store.readAfter(middle, 1);
      if (next === undefined || next.time >= time) high = middle;
      else low = middle + 1n;
    }
    return low;
  }

  #checked(revision: bigint, { head, oldest }: { readonly head: bigint; readonly oldest: bigint }): bigint {
    if (revision >= oldest) return revision;
    throw new AppError("out_of_range", "REVISION_COMPACTED", `events after revision ${revision} are no longer kept`, {
      metadata: { requested: String(revision), oldest: String(oldest), head: String(head) },
    });
  }

  #page(events: readonly Event[], nextPageToken: string, head: bigint): EventPage {
    return { events, nextPageToken, cursor: { storeUid: this.#storeUid, revision: head } };
  }
}

/** Throws unless `tail` is alone. */
export function checkTail(request: { tail: number; pageToken: string; after: unknown; since: unknown }): void {
  const { tail, pageToken, after, since } = request;
  if (tail === 0 || (pageToken === "" && after === undefined && since === undefined)) return;
  throw invalid({ field: "tail", description: "cannot be combined with page_token, after or since" });
}

function listOf({ filter, after, since }: EventQuery): string[] {
  return ["events", filter, String(after?.revision ?? ""), since?.toISOString() ?? ""];
}

function storeChanged(storeUid: string): AppError {
  return new AppError("failed_precondition", "STORE_CHANGED", "the cursor is of another store", {
    metadata: { store_uid: storeUid },
  });
}
