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

test("a hundred followers that resume from places near each other share what is read of the log for them", async () => {
  const log = new Log();
  for (let revision = 1; revision <= 600; revision++) log.append();
  const { feed } = await following(log);
  const reads: bigint[] = [];
  const read = log.readAfter.bind(log);
  log.readAfter = (after, limit) => {
    reads.push(after);
    return read(after, limit);
  };

  const starts = Array.from({ length: 100 }, (_, index) => BigInt(index + 1));
  const followed = await Promise.all(starts.map((revision) => eventsAfter(feed, revision, 600n)));

  expect(followed.map((events) => events.length)).toEqual(starts.map((start) => 600 - Number(start)));
  expect(reads).toEqual([0n, 256n, 512n]);
  await feed.stop();
});

test("however many followers catch up from wherever, two reads run at a time, and each gets all", async () => {
  const log = new Log();
  for (let revision = 1; revision <= 3_000; revision++) log.append(1 + (revision % 2));
  const { feed } = await following(log);
  const read = log.readAfter.bind(log);
  let [running, most] = [0, 0];
  log.readAfter = async (after, limit) => {
    most = Math.max(most, ++running);
    const events = await read(after, limit);
    await new Promise((resolve) => setImmediate(resolve));
    running -= 1;
    return events;
  };

  const starts = Array.from({ length: 30 }, (_, index) => BigInt(index * 100 + 50));
  const followed = await Promise.all(starts.map((revision) => eventsAfter(feed, revision, log.head)));

  const expected = starts.map((start) => placesOf(log.events.filter(({ revision }) => revision > start)));
  expect(followed.map(placesOf)).toEqual(expected);
  expect(most).toBe(2);
  await feed.stop();
});

async function eventsAfter(feed: Feed, revision: bigint, upTo: bigint): Promise<Event[]> {
  const events: Event[] = [];
  for await (const item of feed.follow({ after: { storeUid, revision }, signal })) {
    if (item.kind === "events") events.push(...item.events);
    if (item.cursor.revision >= upTo) break;
  }
  return events;
}
