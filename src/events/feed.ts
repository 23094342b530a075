import { setTimeout as delay } from "node:timers/promises";
import { Registry } from "prom-client";
import { AppError } from "../domain/errors.ts";
import type { Cursor, Event } from "../domain/event.ts";
import { FeedMetrics } from "./metrics.ts";
import { Ring } from "./ring.ts";

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
  #grown = Promise.withResolvers<void>();
  #running: Promise<void> | undefined;
  /** Since when something is known to be there that was not read. */
  #wokenAtMs: number | undefined;

  constructor(source: EventSource, options: FeedOptions) {
    this.#source = source;
    this.#options = options;
    this.#ring = this.#emptyRing();
    this.#metrics = new FeedMetrics(options.registry ?? new Registry(), this);
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
    this.#grown.resolve();
    this.#appended.resolve();
    await this.#running;
  }

  /** Resolves once followers can see the revision. */
  async reached(revision: bigint, signal: AbortSignal): Promise<void> {
    while (this.#head < revision) {
      if (this.#stopping.signal.aborted) throw draining();
      await settled(this.#grown.promise, signal);
      signal.throwIfAborted();
    }
  }

  async *follow(options: FollowOptions): AsyncGenerator<FeedItem, void> {
    const progressIntervalMs = options.progressIntervalMs ?? 30_000;
    const bounds = await this.#source.bounds();
    let position = this.#begin(options.after, bounds);
    yield {
      kind: "opened",
      cursor: this.#cursor(position),
      head: bounds.head,
      oldest: bounds.oldest,
      progressIntervalMs,
    };
    const wait = new Waiter(options.signal);
    const follower = this.#metrics.enter(options.follower ?? "other", position, options.signal);
    try {
      let told = performance.now();
      while (!options.signal.aborted) {
        if (this.#stopping.signal.aborted) throw draining();
        if (position < this.#head) {
          const { events, upTo } = await this.#next(position);
          position = upTo;
          follower.position = upTo;
          const selected = options.select === undefined ? events : options.select(events);
          if (selected.length > 0) {
            follower.delivered(selected.length);
            yield { kind: "events", events: selected, cursor: this.#cursor(position) };
            told = performance.now();
          }
          if (performance.now() - told < progressIntervalMs) continue;
        }
        const leftMs = told + progressIntervalMs - performance.now();
        if (leftMs > 0 && (await wait.until(this.#grown.promise, leftMs)) !== "late") continue;
        yield { kind: "progress", cursor: this.#cursor(position) };
        told = performance.now();
      }
    } finally {
      wait.end();
      follower.leave();
    }
  }

  /** Some next events, from memory where they are still there, and the revision that they reach up to. */
  async #next(position: bigint): Promise<{ events: readonly Event[]; upTo: bigint }> {
    if (position >= this.#ring.start) {
      const events = this.#ring.readAfter(position, eventsABatch);
      return { events, upTo: events.at(-1)?.revision ?? this.#head };
    }
    // What comes to be seen while we read may not be in what was read.
    const head = this.#head;
    this.#metrics.caughtUp();
    const read = await this.#source.readAfter(position, eventsARead);
    const events = read.filter(({ revision }) => revision <= head);
    // What was read may have been thinned out meanwhile: then the reader has fallen out of what is kept.
    const { oldest } = await this.#source.bounds();
    if (position < oldest) throw compacted(position, oldest, this.#head);
    return { events, upTo: lastOfDense(position, events) };
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
    this.#head = last;
    const grown = this.#grown;
    this.#grown = Promise.withResolvers();
    grown.resolve();
    this.#metrics.appended(events, performance.now() - wokenAtMs);
    return true;
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

/** Waits for one of three things, with one abort listener for its whole life: one for each wait would leak. */
class Waiter {
  readonly #signal: AbortSignal;
  readonly #aborted = Promise.withResolvers<"aborted">();
  readonly #onAbort = () => this.#aborted.resolve("aborted");

  constructor(signal: AbortSignal) {
    this.#signal = signal;
    signal.addEventListener("abort", this.#onAbort, { once: true });
    if (signal.aborted) this.#onAbort();
  }

  async until(grown: Promise<void>, ms: number): Promise<"grown" | "aborted" | "late"> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<"late">((resolve) => {
      timer = setTimeout(resolve, ms, "late");
      timer.unref();
    });
    const outcome = await Promise.race([grown.then(() => "grown" as const), this.#aborted.promise, late]);
    clearTimeout(timer);
    return outcome;
  }

  end(): void {
    this.#signal.removeEventListener("abort", this.#onAbort);
  }
}

async function settled(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  const waiter = new Waiter(signal);
  await waiter.until(promise, 2_147_483_647);
  waiter.end();
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
