import { AppError } from "../domain/errors.ts";
import type { Cursor, Event } from "../domain/event.ts";
import type { FeedItem } from "./feed.ts";
import { Sleeper, type Sleepers } from "./sleepers.ts";

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
  /** Where it begins. */
  readonly position: bigint;
  readonly reading: Reading;
  readonly select: ((events: readonly Event[]) => readonly Event[]) | undefined;
  readonly progressIntervalMs: number;
  readonly endMs: number;
  readonly sleepers: Sleepers;
  readonly kind: FollowerKind;
  readonly signal: AbortSignal;
}

/** Who follows for the same reason, as the metrics see them. */
export interface FollowerKind {
  readonly open: Set<{ readonly position: bigint }>;
  /** How many events they were handed. */
  delivered: number;
}

/** One place in the log that moves forward. It holds no queue: who does not ask for the next step is not told of it. */
export class Follower extends Sleeper {
  /** What it was given up to. */
  position: bigint;
  // Each of its own: thousands of followers take their steps one after the other, and every object on the way is one more that no cache holds.
  readonly #reading: Reading;
  readonly #select: FollowerOptions["select"];
  readonly #progressIntervalMs: number;
  readonly #endMs: number;
  readonly #kind: FollowerKind;
  #opened: FeedItem | undefined;
  #past: Stretch | undefined;
  #toldMs = performance.now();
  #resume = () => {};

  constructor(options: FollowerOptions) {
    const { sleepers, signal } = options;
    super(sleepers, signal);
    this.position = options.position;
    this.#reading = options.reading;
    this.#select = options.select;
    this.#progressIntervalMs = options.progressIntervalMs;
    this.#endMs = options.endMs;
    this.#kind = options.kind;
    this.#opened = options.opened;
    if (!signal.aborted) this.#kind.open.add(this);
  }

  /** What there is, for a reader that asks for each. Ends when the signal aborts; throws STREAM_MAX_AGE at the end. To be read once, by one of the two. */
  async *items(): AsyncGenerator<FeedItem, void> {
    try {
      for (let step = this.#next(); step !== undefined; step = this.#next()) {
        if (step === "asleep") await this.#woken();
        else if (step instanceof Promise) await step;
        else yield step;
      }
    } finally {
      this.leave();
    }
  }

  /** The same, handed on as it comes. Where `take` returns a promise, nothing more is handed on before it resolves. */
  pump(take: (item: FeedItem) => Promise<void> | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const fail = (error: unknown) => {
        this.leave();
        reject(error);
      };
      // What it awaits would be made anew for each item, and kept until the next one: so it is called instead.
      this.#resume = () => {
        try {
          for (let step = this.#next(); step !== undefined; step = this.#next()) {
            if (step === "asleep") return;
            const wait = step instanceof Promise ? step : take(step);
            if (wait === undefined) continue;
            wait.then(this.#resume, fail);
            return;
          }
          this.leave();
          resolve();
        } catch (error) {
          fail(error);
        }
      };
      this.#resume();
    });
  }

  // One that is parked, whose client does not read, cannot leave: its signal has it do so.
  override leave(): void {
    super.leave();
    this.#kind.open.delete(this);
  }

  protected override awake(): void {
    this.#resume();
  }

  /** What comes next or, if that is not here yet, what to wait for before asking again: a promise, or being woken. Undefined: the signal aborted. */
  #next(): FeedItem | Promise<void> | "asleep" | undefined {
    const reading = this.#reading;
    if (this.#opened !== undefined) return this.#open(this.#opened);
    for (;;) {
      if (this.signal.aborted) return undefined;
      reading.throwIfStopped();
      const nowMs = performance.now();
      if (nowMs >= this.#endMs) throw tooOld();
      const isBehind = this.position < reading.head;
      if (isBehind) {
        const stretch = this.#past ?? reading.readRecent(this.position);
        if (stretch === undefined) return this.#readPast();
        const told = this.#moveTo(stretch, nowMs);
        if (told !== undefined) return told;
      }
      const dueMs = this.#toldMs + this.#progressIntervalMs;
      if (nowMs >= dueMs) return this.#tell({ kind: "progress", cursor: reading.cursorOf(this.position) }, nowMs);
      if (isBehind) continue;
      this.sleep(Math.min(dueMs, this.#endMs));
      return "asleep";
    }
  }

  #woken(): Promise<void> {
    return new Promise((resolve) => {
      this.#resume = resolve;
    });
  }

  #open(opened: FeedItem): FeedItem {
    this.#opened = undefined;
    return this.#tell(opened, performance.now());
  }

  async #readPast(): Promise<void> {
    this.#past = await this.#reading.readPast(this.position);
  }

  #moveTo({ events, upTo }: Stretch, nowMs: number): FeedItem | undefined {
    const select = this.#select;
    this.#past = undefined;
    this.position = upTo;
    const selected = select === undefined ? events : select(events);
    if (selected.length === 0) return undefined;
    this.#kind.delivered += selected.length;
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
