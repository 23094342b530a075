import type { Event, EventBody } from "../../src/domain/event.ts";
import type { Service } from "../../src/domain/service.ts";
import { type EventSource, Feed } from "../../src/events/feed.ts";
import { anEvent } from "./arbitrary.ts";

export const storeUid = "store-of-the-test";

export type Change = readonly [EventBody, Service?];

/** An event log in memory with the services that its events left behind. */
export class MemoryLog implements EventSource {
  readonly events: Event[] = [];
  readonly #services = new Map<string, Service>();
  readonly #listeners = new Set<() => void>();
  #head = 0n;
  oldest = 0n;

  /** Appends one transaction; each change is an event of a service, with the service as it is after it. */
  append(...changes: readonly Change[]): bigint {
    this.#head += 1n;
    for (const [index, [body, service]] of changes.entries()) {
      const event = anEvent(this.#head, service, body, index);
      this.events.push(event);
      if (event.after === undefined) continue;
      if (body.type === "service_deleted") this.#services.delete(event.after.uid);
      else this.#services.set(event.after.uid, event.after);
    }
    for (const listener of this.#listeners) listener();
    return this.#head;
  }

  get head(): bigint {
    return this.#head;
  }

  async readAfter(revision: bigint, limit: number): Promise<Event[]> {
    const after = this.events.filter((event) => event.revision > revision);
    const upTo = after.slice(0, limit).at(-1)?.revision ?? revision;
    return after.filter((event) => event.revision <= upTo);
  }

  async readBefore(revision: bigint, limit: number): Promise<Event[]> {
    return this.events
      .filter((event) => event.revision < revision)
      .toReversed()
      .slice(0, limit);
  }

  async bounds(): Promise<{ head: bigint; oldest: bigint }> {
    return { head: this.#head, oldest: this.oldest };
  }

  onAppended(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async snapshot(): Promise<{ services: Service[]; revision: bigint }> {
    const services = [...this.#services.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1));
    return { services, revision: this.#head };
  }

  async get(name: string): Promise<{ service: Service; revision: bigint } | undefined> {
    const service = [...this.#services.values()].find((each) => each.name === name);
    return service === undefined ? undefined : { service, revision: this.#head };
  }

  feed(): Feed {
    return new Feed(this, { storeUid, onFailure: (error) => expectNoFailure(error) });
  }
}

function expectNoFailure(error: unknown): never {
  throw new Error("the feed could not read from memory", { cause: error });
}
