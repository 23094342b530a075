import { randomInt } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Cursor, Event } from "../../src/domain/event.ts";
import { Feed } from "../../src/events/feed.ts";
import { compact } from "../../src/store/retention.ts";
import type { Store } from "../../src/store/store.ts";
import {
  age,
  anOccurrence,
  append,
  atEnd,
  emptyDatabase,
  openPool,
  startStore,
  terminate,
  wholeLog,
} from "../store/workbench.ts";
import { eventually } from "../support/eventually.ts";
import { PrivatePostgres } from "../support/postgres.ts";
import { Follower, sourceOf, startFeed } from "./workbench.ts";

test("whatever writers do at once, every follower gets each event once, in order and whole, from where it began", async () => {
  await fc.assert(
    fc.asyncProperty(aHistory(), async ({ ring, before, writers, followers, cut }) => {
      const connection = await emptyDatabase();
      const [store, another] = [await startStore(connection), await startStore(connection)];
      for (const events of before) await append(store, events);
      const { feed, failures } = await startFeed(store, ring);

      const readers = followers.map(({ from, matching }) => {
        const revision = BigInt(Math.floor(from * before.length));
        const matches = (event: Event) => matching === undefined || event.message === String(matching);
        const select = (events: readonly Event[]) => events.filter(matches);
        const after = { storeUid: store.storeUid, revision };
        return { revision, matches, follower: new Follower(feed, { after, select, progressIntervalMs: 20 }) };
      });
      await Promise.all(
        writers.map(async (transactions, writer) => {
          for (const [turn, { events, fails }] of transactions.entries()) {
            if (cut && turn === 1 && writer === 0) await terminate(connection, "steward wake-ups");
            await write(writer % 2 === 0 ? store : another, events, fails, String(writer));
          }
        }),
      );

      const log = await wholeLog(store);
      const head = log.at(-1)?.revision ?? 0n;
      for (const { revision, matches, follower } of readers) {
        await follower.reached(head);
        expect(follower.events).toEqual(log.filter((event) => event.revision > revision && matches(event)));
        await follower.stop();
      }
      expect(failures).toEqual([]);
      await feed.stop();
      await Promise.all([store.stop(), another.stop()]);
    }),
    { numRuns: 8 },
  );
});

test("a follower that resumes from its bookmarks over and over gets what one that never stopped gets", async () => {
  const store = await startStore();
  const { feed } = await startFeed(store, { ringSize: 16 });
  const steady = new Follower(feed, { after: { storeUid: store.storeUid, revision: 0n } });
  const writing = Promise.all(
    Array.from({ length: 4 }, async () => {
      for (let turn = 0; turn < 60; turn++) await append(store, 1 + (turn % 3));
    }),
  );

  const pieces: Event[] = [];
  for (let after: Cursor = { storeUid: store.storeUid, revision: 0n }; after.revision < 240n; ) {
    const follower = new Follower(feed, { after });
    await follower.reached(after.revision + BigInt(randomInt(1, 30)) < 240n ? after.revision + 1n : 240n);
    await follower.stop();
    pieces.push(...follower.events);
    after = follower.cursor ?? after;
  }
  await writing;
  await steady.reached(240n);

  expect(pieces).toEqual(steady.events);
  expect(pieces).toEqual(await wholeLog(store));
});

test("a long log of transactions with many events is caught up with whole", async () => {
  const store = await startStore();
  for (let transaction = 0; transaction < 400; transaction++) await append(store, 3);
  const { feed } = await startFeed(store);

  const follower = new Follower(feed, { after: { storeUid: store.storeUid, revision: 0n } });
  await follower.reached(400n);

  expect(follower.events).toHaveLength(1_200);
  expect(follower.events).toEqual(await wholeLog(store));
});

test("a revision with more events than a read is delivered whole, from the store and from memory", async () => {
  const store = await startStore();
  await append(store, 1_000);
  const { feed } = await startFeed(store, { ringSize: 100 });
  const late = new Follower(feed, { after: { storeUid: store.storeUid, revision: 0n } });
  const live = new Follower(feed, { after: undefined });
  await live.opened;

  await append(store, 1_000);
  await Promise.all([late.reached(2n), live.reached(2n)]);

  expect(late.events).toHaveLength(2_000);
  expect(live.events).toHaveLength(1_000);
});

test("without a cursor a follower gets what happens from now on", async () => {
  const store = await startStore();
  await append(store);
  const { feed } = await startFeed(store);
  const follower = new Follower(feed, { after: undefined });
  const began = await follower.opened;

  await append(store, 2, "new");
  await follower.reached(2n);

  expect(began).toBe(1n);
  expect(follower.events.map(({ message }) => message)).toEqual(["new", "new"]);
});

test("a cursor of another store, of the future or of what is no longer kept is refused, and says what there is", async () => {
  const connection = await emptyDatabase();
  const store = await startStore(connection);
  for (let turn = 0; turn < 5; turn++) await append(store);
  const { feed } = await startFeed(store);
  await age(connection, 3n, 8);
  await compact(openPool(connection));
  const refusalOf = async (after: Cursor) => {
    const follower = new Follower(feed, { after });
    return follower.opened.then(
      () => undefined,
      (error: unknown) => error,
    );
  };

  const another = await refusalOf({ storeUid: "5b0d2f40-0000-4000-8000-000000000000", revision: 5n });
  const future = await refusalOf({ storeUid: store.storeUid, revision: 6n });
  const compacted = await refusalOf({ storeUid: store.storeUid, revision: 2n });

  expect(another).toMatchObject({
    code: "failed_precondition",
    reason: "STORE_CHANGED",
    metadata: { store_uid: store.storeUid },
  });
  expect(future).toMatchObject({
    code: "failed_precondition",
    reason: "REVISION_IN_FUTURE",
    metadata: { requested: "6", head: "5" },
  });
  expect(compacted).toMatchObject({
    code: "out_of_range",
    reason: "REVISION_COMPACTED",
    metadata: { requested: "2", oldest: "3", head: "5" },
  });
  const kept = new Follower(feed, { after: { storeUid: store.storeUid, revision: 0n } });
  expect(await kept.opened).toBe(3n);
  await kept.reached(5n);
  expect(kept.events.map(({ revision }) => revision)).toEqual([4n, 5n]);
});

test("a follower that falls out of what is kept while it reads is told so, and got no gap before", async () => {
  const connection = await emptyDatabase();
  const store = await startStore(connection);
  for (let turn = 0; turn < 600; turn++) await append(store);
  const { feed } = await startFeed(store);
  const { promise: swept, resolve: goOn } = Promise.withResolvers<void>();

  const follower = new Follower(feed, { after: { storeUid: store.storeUid, revision: 0n } }, () => swept);
  await follower.opened;
  await age(connection, 590n, 8);
  await compact(openPool(connection));
  goOn();

  await expect(follower.ended).rejects.toMatchObject({ reason: "REVISION_COMPACTED", metadata: { oldest: "590" } });
  expect(follower.events.map(({ revision }) => revision)).toEqual(follower.events.map((_, index) => BigInt(index + 1)));
});

test("a follower that does not read holds up nobody, nothing is kept for it, and it catches up when it does", async () => {
  const store = await startStore();
  const { feed, reads } = await startFeed(store, { ringSize: 32 });
  const { promise: woken, resolve: wake } = Promise.withResolvers<void>();
  const after = { storeUid: store.storeUid, revision: 0n };
  const [asleep, awake] = [new Follower(feed, { after }, () => woken), new Follower(feed, { after })];
  await Promise.all([asleep.opened, awake.opened]);

  for (let turn = 0; turn < 200; turn++) await append(store, 2);
  await awake.reached(200n);
  const [got, read] = [asleep.events.length, reads.length];
  wake();
  await asleep.reached(200n);

  expect(got).toBe(0);
  expect(reads.slice(read)).toContain(0n);
  expect(asleep.events).toEqual(awake.events);
  expect(asleep.events).toHaveLength(400);
});

test("a follower whose filter matches nothing is told how far the log is", async () => {
  const store = await startStore();
  const { feed } = await startFeed(store);
  const after = { storeUid: store.storeUid, revision: 0n };
  const follower = new Follower(feed, { after, select: () => [], progressIntervalMs: 10 });

  await append(store);
  await append(store);
  await follower.reached(2n);

  expect(follower.events).toEqual([]);
});

test("a database that is restarted in the middle costs no event and doubles none", async () => {
  const postgres = await PrivatePostgres.start();
  atEnd(() => postgres.dispose());
  const store = await startStore(postgres.connection);
  const { feed } = await startFeed(store, { ringSize: 8 });
  const after = { storeUid: store.storeUid, revision: 0n };
  const [early, resuming] = [new Follower(feed, { after }), new Follower(feed, { after })];
  for (let turn = 0; turn < 20; turn++) await append(store);
  await resuming.reached(20n);
  await resuming.stop();

  await postgres.stop("immediate");
  const refused = append(store);
  await expect(refused).rejects.toMatchObject({ reason: "STORE_UNAVAILABLE" });
  await postgres.start();
  await eventually(() => append(store, 2).then(() => true));
  for (let turn = 0; turn < 20; turn++) await append(store);
  const log = await wholeLog(store);
  const head = log.at(-1)?.revision ?? 0n;
  const resumed = new Follower(feed, { after: resuming.cursor });
  await Promise.all([early.reached(head), resumed.reached(head)]);

  expect(early.events).toEqual(log);
  expect([...resuming.events, ...resumed.events]).toEqual(log);
});

test("a follower is refused while the database is away, one that is there waits", async () => {
  const postgres = await PrivatePostgres.start();
  atEnd(() => postgres.dispose());
  const store = await startStore(postgres.connection);
  const { feed, failures } = await startFeed(store);
  const waiting = new Follower(feed, { after: undefined });
  await waiting.opened;

  await postgres.stop();
  const refused = new Follower(feed, { after: undefined });

  await expect(refused.opened).rejects.toMatchObject({ reason: "STORE_UNAVAILABLE" });
  await eventually(() => failures.length > 0);
  await postgres.start();
  const revision = await eventually(() => append(store));
  await waiting.reached(revision);
  expect(waiting.events).toHaveLength(1);
});

test("stopping the feed ends every follower with the reason, idle, behind or not begun", async () => {
  const store = await startStore();
  const { feed } = await startFeed(store);
  const { promise: woken, resolve: wake } = Promise.withResolvers<void>();
  const idle = new Follower(feed, { after: undefined });
  const behind = new Follower(feed, { after: undefined }, () => woken);
  await Promise.all([idle.opened, behind.opened]);
  await append(store);
  await idle.reached(1n);
  const unreached = feed.reached(99n, AbortSignal.timeout(30_000));

  const refusals = [unreached, idle.ended, behind.ended].map((ending) =>
    expect(ending).rejects.toMatchObject({ code: "unavailable", reason: "SERVER_DRAINING" }),
  );
  await feed.stop();
  wake();
  await Promise.all(refusals);
  const late = new Follower(feed, { after: undefined });

  await expect(late.ended).rejects.toMatchObject({ reason: "SERVER_DRAINING" });
});

test("stopping twice, or before the start, is fine", async () => {
  const store = await startStore();
  const { feed } = await startFeed(store);
  const never = new Feed(sourceOf(store), { storeUid: store.storeUid, onFailure: () => undefined });

  await never.stop();
  await Promise.all([feed.stop(), feed.stop()]);
  await feed.stop();
});

test("a reader that ends its follower leaves nothing behind", async () => {
  const store = await startStore();
  const { feed } = await startFeed(store);
  const followers = Array.from({ length: 50 }, () => new Follower(feed, { after: undefined }));
  await Promise.all(followers.map(({ opened }) => opened));

  await Promise.all(followers.map((follower) => follower.stop()));

  const revision = await append(store);
  await feed.reached(revision, AbortSignal.timeout(30_000));
  expect(followers.every(({ events }) => events.length === 0)).toBe(true);
});

/** What was there, who writes at once, where followers begin and whether the notifications are cut in the middle. */
function aHistory() {
  const count = fc.integer({ min: 1, max: 5 });
  const writes = fc.array(fc.record({ events: count, fails: fc.boolean() }), { minLength: 2, maxLength: 25 });
  return fc.record({
    ring: fc.record({ ringSize: fc.constantFrom(1, 10, 1_000), ringBytes: fc.constantFrom(1, 5_000, 1_000_000) }),
    before: fc.array(count, { maxLength: 120 }),
    writers: fc.array(writes, { minLength: 1, maxLength: 6 }),
    followers: fc.array(
      fc.record(
        { from: fc.double({ min: 0, max: 1, noNaN: true }), matching: fc.integer({ min: 0, max: 5 }) },
        { requiredKeys: ["from"] },
      ),
      { minLength: 1, maxLength: 6 },
    ),
    cut: fc.boolean(),
  });
}

async function write(store: Store, events: number, fails: boolean, message: string): Promise<void> {
  const written = store.write(async (tx) => {
    for (let index = 0; index < events; index++) tx.append(anOccurrence(message));
    if (fails) throw new Error("rolled back");
  });
  await (fails ? expect(written).rejects.toThrow("rolled back") : written);
}
