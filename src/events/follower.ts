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
  readonly #options: Omit<FollowerOptions, "opened">;
  #opened: FeedItem | undefined;
  #past: Stretch | undefined;
  #toldMs = performance.now();

  constructor({ opened, ...options }: FollowerOptions) {
    this.#opened = opened;
    this.#options = options;
  }

  /** What comes next or, if that is not here yet, what to await before asking again; undefined: the signal aborted. Throws STREAM_MAX_AGE at the end. */
  next(): FeedItem | Promise<void> | undefined {
    const { reading, place, progressIntervalMs, endMs, sleeper, signal } = this.#options;
    if (this.#opened !== undefined) return this.#open(this.#opened);
    for (;;) {
      if (signal.aborted) return undefined;
      reading.throwIfStopped();
      if (performance.now() >= endMs) throw tooOld();
      const isBehind = place.position < reading.head;
      if (isBehind) {
        const stretch = this.#past ?? reading.readRecent(place.position);
        if (stretch === undefined) return this.#readPast();
        const told = this.#moveTo(stretch);
        if (told !== undefined) return told;
      }
      const dueMs = this.#toldMs + progressIntervalMs;
      if (performance.now() >= dueMs) return this.#tell({ kind: "progress", cursor: reading.cursorOf(place.position) });
      if (!isBehind) return sleeper.sleep(Math.min(dueMs, endMs));
    }
  }

  leave(): void {
    this.#options.sleeper.leave();
    this.#options.place.leave();
  }

  #open(opened: FeedItem): FeedItem {
    this.#opened = undefined;
    return this.#tell(opened);
  }

  async #readPast(): Promise<void> {
    const { reading, place } = this.#options;
    this.#past = await reading.readPast(place.position);
  }

  #moveTo({ events, upTo }: Stretch): FeedItem | undefined {
    const { reading, place, select } = this.#options;
    this.#past = undefined;
    place.position = upTo;
    const selected = select === undefined ? events : select(events);
    if (selected.length === 0) return undefined;
    place.delivered(selected.length);
    return this.#tell({ kind: "events", events: selected, cursor: reading.cursorOf(upTo) });
  }

  #tell(item: FeedItem): FeedItem {
    this.#toldMs = performance.now();
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
