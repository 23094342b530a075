import { AppError } from "../domain/errors.ts";
import type { Cursor, Event } from "../domain/event.ts";
import type { FeedItem } from "./feed.ts";
import type { Sleeper } from "./sleepers.ts";

/** What a follower needs of its feed. */
export interface Reading {
  readonly head: bigint;
  /** Throws when the feed stops. */
  throwIfStopped(): void;
  /** The next events that are in memory; undefined: they no longer are. */
  readRecent(position: bigint): Stretch | undefined;
  readPast(position: bigint): Promise<Stretch>;
  cursorOf(revision: bigint): Cursor;
}

/** Some events, and the revision that they reach up to. */
export interface Stretch {
  readonly events: readonly Event[];
  readonly upTo: bigint;
}

export interface FollowerOptions {
  /** What it is told first. */
  readonly opened: FeedItem;
  readonly reading: Reading;
  /** What it was given up to, for itself and for the metrics. */
  readonly place: Place;
  readonly select: ((events: readonly Event[]) => readonly Event[]) | undefined;
  readonly progressIntervalMs: number;
  readonly endMs: number;
  readonly sleeper: Sleeper;
  readonly signal: AbortSignal;
}

export interface Place {
  position: bigint;
  delivered(events: number): void;
  leave(): void;
}

/** One place in the log that moves forward. It holds no queue: who does not ask for the next step is not told of it. */
export class Follower {
  // Each of its own: thousands of followers take their steps one after the other, and every object on the way is one more that no cache holds.
  readonly #reading: Reading;
  readonly #place: Place;
  readonly #select: FollowerOptions["select"];
  readonly #progressIntervalMs: number;
  readonly #endMs: number;
  readonly #sleeper: Sleeper;
  readonly #signal: AbortSignal;
  #opened: FeedItem | undefined;
  #past: Stretch | undefined;
  #toldMs = performance.now();

  constructor({ opened, reading, place, select, progressIntervalMs, endMs, sleeper, signal }: FollowerOptions) {
    this.#opened = opened;
    this.#reading = reading;
    this.#place = place;
    this.#select = select;
    this.#progressIntervalMs = progressIntervalMs;
    this.#endMs = endMs;
    this.#sleeper = sleeper;
    this.#signal = signal;
  }

  /** What comes next or, if that is not here yet, what to await before asking again; undefined: the signal aborted. Throws STREAM_MAX_AGE at the end. */
  next(): FeedItem | Promise<void> | undefined {
    const [reading, place] = [this.#reading, this.#place];
    if (this.#opened !== undefined) return this.#open(this.#opened);
    for (;;) {
      if (this.#signal.aborted) return undefined;
      reading.throwIfStopped();
      const nowMs = performance.now();
      if (nowMs >= this.#endMs) throw tooOld();
      const isBehind = place.position < reading.head;
      if (isBehind) {
        const stretch = this.#past ?? reading.readRecent(place.position);
        if (stretch === undefined) return this.#readPast();
        const told = this.#moveTo(stretch, nowMs);
        if (told !== undefined) return told;
      }
      const dueMs = this.#toldMs + this.#progressIntervalMs;
      if (nowMs >= dueMs) return this.#tell({ kind: "progress", cursor: reading.cursorOf(place.position) }, nowMs);
      if (!isBehind) return this.#sleeper.sleep(Math.min(dueMs, this.#endMs));
    }
  }

  leave(): void {
    this.#sleeper.leave();
    this.#place.leave();
  }

  #open(opened: FeedItem): FeedItem {
    this.#opened = undefined;
    return this.#tell(opened, performance.now());
  }

  async #readPast(): Promise<void> {
    this.#past = await this.#reading.readPast(this.#place.position);
  }

  #moveTo({ events, upTo }: Stretch, nowMs: number): FeedItem | undefined {
    const [place, select] = [this.#place, this.#select];
    this.#past = undefined;
    place.position = upTo;
    const selected = select === undefined ? events : select(events);
    if (selected.length === 0) return undefined;
    place.delivered(selected.length);
    return this.#tell({ kind: "events", events: selected, cursor: this.#reading.cursorOf(upTo) }, nowMs);
  }

  #tell(item: FeedItem, nowMs: number): FeedItem {
    this.#toldMs = nowMs;
    return item;
  }
}

function tooOld(): AppError {
  return new AppError(
    "unavailable",
    "STREAM_MAX_AGE",
    "the stream reached its greatest age; resume after its last cursor",
    {
      retryAfterMs: 100,
    },
  );
}
