import { setTimeout as delay } from "node:timers/promises";
import { Registry } from "prom-client";
import { AppError } from "../domain/errors.ts";
import type { Cursor, Event } from "../domain/event.ts";
import { Follower, type Reading, type Stretch } from "./follower.ts";
import { FeedMetrics } from "./metrics.ts";
import { PastPages } from "./past-pages.ts";
import { Ring } from "./ring.ts";
import { AwaitedSleeper, Sleepers } from "./sleepers.ts";

/** What the feed needs of the store. */
export interface EventSource {
  /** The next `limit` events after `revision`, and what else there is of their revisions: whole and in order. */
  readAfter(revision: bigint, limit: number): Promise<readonly Event[]>;
  /** The newest revision, and the oldest one that a reader can resume after. */
  bounds(): Promise<{ readonly head: bigint; readonly oldest: bigint }>;
  /** Calls the listener after each append; it may call without one. */
  onAppended(listener: () => void): () => void;
}

export interface FeedOptions {
  readonly storeUid: string;
  /** Tells of failed reads; they are tried again. */
  readonly onFailure: (error: unknown) => void;
  /** How many of the newest events are kept in memory. Default 16,384. */
  readonly ringSize?: number;
  /** How many bytes they may have, as estimated. Default 6 MiB: memory makes each fork slower. */
  readonly ringBytes?: number;
  /** Where its metrics are told. */
  readonly registry?: Registry;
}

export interface FollowOptions {
  /** Where to begin. Undefined: what happens from now on. */
  readonly after: Cursor | undefined;
  /** What of whole revisions the follower is told; where that is nothing it is told of its progress in time. Default: all. */
  readonly select?: (events: readonly Event[]) => readonly Event[];
  /** Who follows, as the metrics name it. */
  readonly follower?: string;
  /** How long to wait with a progress when there is nothing to tell. Default 30 s. */
  readonly progressIntervalMs?: number;
  /** When to end with STREAM_MAX_AGE, by performance.now(). Default: never. */
  readonly endMs?: number;
  readonly signal: AbortSignal;
}

export type FeedItem =
  | {
      readonly kind: "opened";
      readonly cursor: Cursor;
      readonly head: bigint;
      readonly oldest: bigint;
      readonly progressIntervalMs: number;
    }
  /** Whole revisions. */
  | { readonly kind: "events"; readonly events: readonly Event[]; readonly cursor: Cursor }
  /** There was nothing to tell up to the cursor. */
  | { readonly kind: "progress"; readonly cursor: Cursor };

const eventsARead = 256;
const eventsABatch = 256;
const longestRetryMs = 2_000;

/**
 * The corridor between what is written and whoever acts on it. One loop reads the log once for everybody; a follower holds no queue, only its
 * cursor and one shared wake-up, so a slow one costs the others nothing. Events are delivered in order, once, whole revisions only.
 */
export class Feed {
  readonly #source: EventSource;
  readonly #options: FeedOptions;
  readonly #metrics: FeedMetrics;
  readonly #stopping = new AbortController();
  #ring: Ring;
  #head = 0n;
  #appended = Promise.withResolvers<void>();
  readonly #arrivals = new Sleepers();
  readonly #followers = new Sleepers();
  readonly #pages: PastPages;
  readonly #reading: Reading;
  /** What was read of the ring last: most of those who are woken read the same. */
  #lastRead: { readonly position: bigint; readonly stretch: Stretch } | undefined;
  #running: Promise<void> | undefined;
  /** Since when something is known to be there that was not read. */
  #wokenAtMs: number | undefined;

  constructor(source: EventSource, options: FeedOptions) {
    this.#source = source;
    this.#options = options;
    this.#ring = this.#emptyRing();
    this.#metrics = new FeedMetrics(options.registry ?? new Registry(), this);
    this.#pages = new PastPages(source, () => this.#metrics.caughtUp());
    this.#reading = this.#openForReading();
  }

  /** The newest revision that followers can see. */
  get head(): bigint {
    return this.#head;
  }

  /** The newest events, in memory. */
  get ring(): Pick<Ring, "start" | "size" | "bytes"> {
    return this.#ring;
  }

  async start(): Promise<void> {
    const { head } = await this.#source.bounds();
    this.#head = head;
    this.#ring = this.#emptyRing();
    this.#running = this.#run();
  }

  /** Ends every follower with SERVER_DRAINING. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#wake();
    this.#pages.forget();
    this.#appended.resolve();
    await this.#running;
  }

  /** Resolves once followers can see the revision. */
  async reached(revision: bigint, signal: AbortSignal): Promise<void> {
    if (this.#head >= revision) return;
    const arrival = new AwaitedSleeper(this.#arrivals, signal);
    try {
      while (this.#head < revision) {
        if (this.#stopping.signal.aborted) throw draining();
        await arrival.rest();
        signal.throwIfAborted();
      }
    } finally {
      arrival.leave();
    }
  }

  /** What is in the log from a place on, for one reader that asks for it. */
  async *follow(options: FollowOptions): AsyncGenerator<FeedItem, void> {
    const follower = await this.#open(options);
    yield* follower.items();
  }

  /**
   * The same, handed on as it comes; resolves when the signal aborts. Where `take` returns a promise, nothing more is handed on before it resolves. For
   * thousands of readers that mostly wait: what asking for each item leaves in memory, times their number, costs more than telling them of it.
   */
  pump(options: FollowOptions, take: (item: FeedItem) => Promise<void> | undefined): Promise<void> {
    return this.#open(options).then((follower) => follower.pump(take));
  }

  async #open(options: FollowOptions): Promise<Follower> {
    const { after, select, follower = "other", progressIntervalMs = 30_000, endMs = Infinity, signal } = options;
    const { head, oldest } = await this.#source.bounds();
    const position = this.#begin(after, { head, oldest });
    const opened = { kind: "opened" as const, cursor: this.#cursor(position), head, oldest, progressIntervalMs };
    const [reading, sleepers, kind] = [this.#reading, this.#followers, this.#metrics.kindOf(follower)];
    return new Follower({ opened, position, reading, select, progressIntervalMs, endMs, sleepers, kind, signal });
  }

  #readRecent(position: bigint): Stretch | undefined {
    if (position < this.#ring.start) return undefined;
    if (this.#lastRead?.position === position) return this.#lastRead.stretch;
    const events = this.#ring.readAfter(position, eventsABatch);
    const stretch = { events, upTo: events.at(-1)?.revision ?? this.#head };
    this.#lastRead = { position, stretch };
    return stretch;
  }

  async #readPast(position: bigint): Promise<Stretch> {
    // What comes to be seen while we read may not be in what was read.
    const head = this.#head;
    const { events: read, oldest } = await this.#pages.after(position);
    // What was read may have been thinned out meanwhile: then the reader has fallen out of what is kept.
    if (position < oldest) throw compacted(position, oldest, this.#head);
    const events = read.filter(({ revision }) => revision <= head);
    return { events, upTo: lastOfDense(position, events) };
  }

  #openForReading(): Reading {
    const headOf = () => this.#head;
    return {
      get head() {
        return headOf();
      },
      throwIfStopped: () => {
        if (this.#stopping.signal.aborted) throw draining();
      },
      readRecent: (position) => this.#readRecent(position),
      readPast: (position) => this.#readPast(position),
      cursorOf: (revision) => this.#cursor(revision),
    };
  }

  #begin(after: Cursor | undefined, bounds: { head: bigint; oldest: bigint }): bigint {
    if (after === undefined) return this.#head;
    if (after.storeUid !== "" && after.storeUid !== this.#options.storeUid) {
      throw new AppError(
        "failed_precondition",
        "STORE_CHANGED",
        "the cursor is of another store; take a new snapshot",
        {
          metadata: { store_uid: this.#options.storeUid },
        },
      );
    }
    if (after.revision > bounds.head && after.revision > this.#head) {
      throw new AppError(
        "failed_precondition",
        "REVISION_IN_FUTURE",
        `the store is at revision ${bounds.head}, before ${after.revision}`,
        {
          metadata: { requested: String(after.revision), head: String(bounds.head) },
        },
      );
    }
    // 0 asks for all that is kept.
    if (after.revision === 0n) return bounds.oldest;
    if (after.revision < bounds.oldest) throw compacted(after.revision, bounds.oldest, bounds.head);
    return after.revision;
  }

  #cursor(revision: bigint): Cursor {
    return { storeUid: this.#options.storeUid, revision };
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    const unsubscribe = this.#source.onAppended(() => this.#woken());
    for (let failures = 0; !signal.aborted; ) {
      try {
        while (await this.#read()) failures = 0;
        await this.#appended.promise;
        this.#appended = Promise.withResolvers();
      } catch (error) {
        this.#metrics.readFailed();
        this.#options.onFailure(error);
        await delay(Math.min(longestRetryMs, 50 * 2 ** failures++), undefined, { signal }).catch(() => undefined);
      }
    }
    unsubscribe();
  }

  #woken(): void {
    this.#wokenAtMs ??= performance.now();
    this.#appended.resolve();
  }

  /** Reads on from the head; returns whether there was something. */
  async #read(): Promise<boolean> {
    if (this.#stopping.signal.aborted) return false;
    const wokenAtMs = this.#wokenAtMs ?? performance.now();
    this.#wokenAtMs = undefined;
    const events = await this.#source.readAfter(this.#head, eventsARead);
    if (events.length === 0) return false;
    const last = lastOfDense(this.#head, events);
    this.#ring.push(events);
    this.#lastRead = undefined;
    this.#head = last;
    this.#wake();
    this.#metrics.appended(events, performance.now() - wokenAtMs);
    return true;
  }

  /** Calls that wait for what they have written come before those who only look on. */
  #wake(): void {
    this.#arrivals.wake();
    this.#followers.wake();
  }

  #emptyRing(): Ring {
    const { ringSize = 16_384, ringBytes = 6 * 1_048_576 } = this.#options;
    return new Ring(this.#head, { events: ringSize, bytes: ringBytes });
  }
}

/** The last revision of events read after one. Revisions are dense by construction: a gap would be a lost event, and silence about it the worst of all bugs. */
function lastOfDense(after: bigint, events: readonly Event[]): bigint {
  let last = after;
  for (const { revision, index } of events) {
    if (revision === last && index > 0) continue;
    if (revision !== last + 1n) throw new Error(`the event log has a gap: ${revision} follows ${last}`);
    last = revision;
  }
  if (last === after) throw new Error(`the event log has a gap: nothing follows ${after}`);
  return last;
}

function compacted(requested: bigint, oldest: bigint, head: bigint): AppError {
  return new AppError(
    "out_of_range",
    "REVISION_COMPACTED",
    `events after revision ${requested} are no longer kept; the oldest place to resume after is ${oldest}`,
    {
      metadata: { requested: String(requested), oldest: String(oldest), head: String(head) },
    },
  );
}

function draining(): AppError {
  return new AppError("unavailable", "SERVER_DRAINING", "the server stops", {
    retryAfterMs: 500 + Math.random() * 1_000,
  });
}
