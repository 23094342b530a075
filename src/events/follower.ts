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
  readonly reading: Reading;
  readonly position: bigint;
  readonly matches: ((event: Event) => boolean) | undefined;
  readonly progressIntervalMs: number;
  readonly sleeper: Sleeper;
  readonly signal: AbortSignal;
}

/** One place in the log that moves forward. It holds no queue: who does not ask for the next step is not told of it. */
export class Follower {
  readonly #options: FollowerOptions;
  #position: bigint;
  #past: Stretch | undefined;
  #toldMs = performance.now();

  constructor(options: FollowerOptions) {
    this.#options = options;
    this.#position = options.position;
  }

  /** What comes next or, if that is not here yet, what to await before asking again; undefined: the signal aborted. */
  next(): FeedItem | Promise<void> | undefined {
    const { reading, progressIntervalMs, sleeper, signal } = this.#options;
    for (;;) {
      if (signal.aborted) return undefined;
      reading.throwIfStopped();
      const isBehind = this.#position < reading.head;
      if (isBehind) {
        const stretch = this.#past ?? reading.readRecent(this.#position);
        if (stretch === undefined) return this.#readPast();
        const told = this.#moveTo(stretch);
        if (told !== undefined) return told;
      }
      const dueMs = this.#toldMs + progressIntervalMs;
      if (performance.now() >= dueMs) return this.#tell({ kind: "progress", cursor: reading.cursorOf(this.#position) });
      if (!isBehind) return sleeper.sleep(dueMs);
    }
  }

  leave(): void {
    this.#options.sleeper.leave();
  }

  async #readPast(): Promise<void> {
    this.#past = await this.#options.reading.readPast(this.#position);
  }

  #moveTo({ events, upTo }: Stretch): FeedItem | undefined {
    const { reading, matches } = this.#options;
    this.#past = undefined;
    this.#position = upTo;
    const matching = matches === undefined ? events : events.filter(matches);
    if (matching.length === 0) return undefined;
    return this.#tell({ kind: "events", events: matching, cursor: reading.cursorOf(upTo) });
  }

  #tell(item: FeedItem): FeedItem {
    this.#toldMs = performance.now();
    return item;
  }
}
