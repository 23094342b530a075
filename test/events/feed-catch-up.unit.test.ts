import { expect, test } from "vitest";
import type { Event } from "../../src/domain/event.ts";
import { type EventSource, Feed } from "../../src/events/feed.ts";
import { anEvent } from "../rpc/arbitrary.ts";

const { signal } = new AbortController();
const storeUid = "store";
const created = { type: "service_created" } as const;

/** A log that, as the real one, reads a number of events and not of revisions. */
class Log implements EventSource {
  readonly events: Event[] = [];
  #listener: () => void = () => undefined;

  get head(): bigint {
    return this.events.at(-1)?.revision ?? 0n;
  }

  append(count = 1): void {
    const revision = this.head + 1n;
    for (let index = 0; index < count; index++) this.events.push(anEvent(revision, undefined, created, index));
    this.#listener();
  }

  async readAfter(after: bigint, limit: number): Promise<Event[]> {
    const page = this.events.filter(({ revision }) => revision > after).slice(0, limit);
    const last = page.at(-1)?.revision ?? 0n;
    return this.events.filter(({ revision }) => revision > after && revision <= last);
  }

  async bounds(): Promise<{ head: bigint; oldest: bigint }> {
    return { head: this.head, oldest: 0n };
  }

  onAppended(listener: () => void): () => void {
    this.#listener = listener;
    return () => undefined;
  }
}

async function following(log: Log): Promise<{ feed: Feed; upTo: (revision: bigint) => Promise<string[]> }> {
  const feed = new Feed(log, {
    storeUid,
    onFailure: (error) => {
      throw error;
    },
  });
  await feed.start();
  const upTo = async (revision: bigint) => {
    const places: string[] = [];
    for await (const { kind, cursor, ...item } of feed.follow({ after: { storeUid, revision: 0n }, signal })) {
      if (kind === "events" && "events" in item) places.push(...placesOf(item.events));
      if (cursor.revision >= revision) break;
    }
    return places;
  };
  return { feed, upTo };
}

const placesOf = (events: readonly Event[]) => events.map(({ revision, index }) => `${revision}.${index}`);

test("a follower who comes after a restart gets every event of revisions with several", async () => {
  const log = new Log();
  for (let revision = 1; revision <= 400; revision++) log.append(1 + (revision % 3));
  const { feed, upTo } = await following(log);

  expect(await upTo(400n)).toEqual(placesOf(log.events));

  await feed.stop();
});

test("what is appended while a follower is catching up is not skipped", async () => {
  const log = new Log();
  for (let revision = 1; revision <= 10; revision++) log.append();
  const { feed, upTo } = await following(log);
  const read = log.readAfter.bind(log);
  log.readAfter = async (after, limit) => {
    const events = await read(after, limit);
    if (after === 0n) {
      log.append(2);
      await feed.reached(11n, signal);
    }
    return events;
  };

  expect(await upTo(11n)).toEqual(placesOf(log.events));

  await feed.stop();
});
