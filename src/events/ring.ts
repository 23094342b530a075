import type { Event } from "../domain/event.ts";

/** What a ring keeps at most, give or take a quarter of it and a revision. */
export interface RingLimits {
  readonly events: number;
  /** As estimated: what clients write into specs may be large, and each event carries its service whole. */
  readonly bytes: number;
}

/** The newest events, whole revisions, oldest first. The last revision stays however large it is. */
export class Ring {
  readonly #limits: RingLimits;
  #events: Event[] = [];
  /** The estimated size of each. */
  #sizes: number[] = [];
  #bytes = 0;
  #start: bigint;

  /** Empty, for the events after `start`. */
  constructor(start: bigint, limits: RingLimits) {
    this.#start = start;
    this.#limits = limits;
  }

  /** Every event after this revision that was pushed is here. */
  get start(): bigint {
    return this.#start;
  }

  get size(): number {
    return this.#events.length;
  }

  /** As estimated. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Adds the revisions that follow, whole. */
  push(events: readonly Event[]): void {
    for (const event of events) {
      const size = estimatedSize(event);
      this.#events.push(event);
      this.#sizes.push(size);
      this.#bytes += size;
    }
    if (this.#exceeds(this.#events.length, this.#bytes, 1.25)) this.#trim();
  }

  /** The next `limit` events after a revision and the rest of the last one's revision. */
  readAfter(revision: bigint, limit: number): readonly Event[] {
    const first = this.#firstAfter(revision);
    let end = Math.min(first + limit, this.#events.length);
    while (end > first && this.#events[end]?.revision === this.#events[end - 1]?.revision) end++;
    return this.#events.slice(first, end);
  }

  #exceeds(events: number, bytes: number, times: number): boolean {
    return events > this.#limits.events * times || bytes > this.#limits.bytes * times;
  }

  #trim(): void {
    const count = this.#events.length;
    let first = 0;
    for (let bytes = this.#bytes; first < count - 1 && this.#exceeds(count - first, bytes, 1); first++)
      bytes -= this.#sizes[first] ?? 0;
    while (first > 0 && this.#events[first]?.revision === this.#events[first - 1]?.revision) first--;
    this.#start = (this.#events[first]?.revision ?? 1n) - 1n;
    this.#events = this.#events.slice(first);
    this.#sizes = this.#sizes.slice(first);
    this.#bytes = this.#sizes.reduce((sum, size) => sum + size, 0);
  }

  #firstAfter(revision: bigint): number {
    let low = 0;
    let high = this.#events.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#events[middle]?.revision ?? 0n) > revision) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

/** About what a value holds of the memory, in bytes. */
export function estimatedSize(value: unknown): number {
  if (typeof value === "string") return 16 + value.length;
  if (!isObject(value)) return 8;
  let size = 32;
  // Unlike Object.entries this allocates nothing, and it runs for every event there is.
  for (const key in value) size += key.length + estimatedSize(value[key]);
  return size;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null;
}
