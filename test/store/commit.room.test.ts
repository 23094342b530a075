import { randomUUID } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import type { Service } from "../../src/domain/service.ts";
import { committed, outcomeOf, readTogether, retried } from "../../src/store/commit.ts";
import type { EmbeddedConnection } from "../../src/store/embedded-postgres.ts";
import { createPool, query } from "../../src/store/postgres.ts";
import { eventually } from "../support/eventually.ts";
import { PrivatePostgres } from "../support/postgres.ts";
import { PostgresWire } from "../support/postgres-wire.ts";
import {
  anOccurrence,
  append,
  atEnd,
  create,
  emptyDatabase,
  insert,
  openPool,
  read,
  remove,
  startStore,
  terminate,
  touch,
  wholeLog,
} from "./workbench.ts";

test("whatever fails in between, revisions are dense, in the order of the commits, and a transaction shares one", async () => {
  const connection = await emptyDatabase();
  const store = await startStore(connection);
  const another = await startStore(connection);

  await fc.assert(
    fc.asyncProperty(fc.array(aWriter(), { minLength: 1, maxLength: 24 }), async (writers) => {
      const { head: before } = await store.events.bounds();

      const written = await Promise.all(
        writers.map(async (writer, index) => {
          const mark = randomUUID();
          const write = (index % 2 === 0 ? store : another).write(async (tx) => {
            const uid = writer.creates ? await insert(tx, `s-${mark}`) : undefined;
            for (let event = 0; event < writer.events; event++) tx.append(anOccurrence(mark));
            if (writer.fails) throw new AppError("aborted", "ETAG_MISMATCH", mark);
            return uid;
          });
          const revision = await write.then(
            (done) => done.revision,
            () => undefined,
          );
          return { ...writer, mark, revision };
        }),
      );

      const { head: after } = await store.events.bounds();
      const log = await store.events.readAfter(before, 10_000);
      const revisions = [...new Set(log.map(({ revision }) => revision))];
      expect(revisions).toEqual(
        Array.from({ length: Number(after - before) }, (_, index) => before + 1n + BigInt(index)),
      );
      for (const { mark, revision, events, creates, fails } of written) {
        const appended = log.filter((event) => event.message === mark);
        const { service } = await store.services.byName(`s-${mark}`);
        const count = fails ? 0 : events;
        expect(revision === undefined).toBe(fails);
        expect(appended.map((event) => event.revision)).toEqual(Array.from({ length: count }, () => revision));
        expect(service?.revision).toEqual(creates && !fails ? revision : undefined);
        const whole = log.filter((event) => event.revision === revision && !fails && events + Number(creates) > 0);
        expect(whole.map((event) => event.index)).toEqual(whole.map((_, index) => index));
        expect(whole).toHaveLength(fails ? 0 : events + Number(creates));
      }
    }),
    { numRuns: 15 },
  );
});

test("a reader never sees a revision before the one below it", async () => {
  const store = await startStore();
  const writing = Promise.all(
    Array.from({ length: 16 }, async (_, writer) => {
      for (let turn = 0; turn < 20; turn++) await append(store, 1 + (writer % 3));
    }),
  );
  let done = false;
  const finished = writing.finally(() => {
    done = true;
  });

  const seen: bigint[] = [];
  for (let last = 0n, more = true; more; ) {
    more = !done;
    const events = await store.events.readAfter(last, 7);
    seen.push(...events.map(({ revision }) => revision));
    last = events.at(-1)?.revision ?? last;
    more ||= events.length > 0;
  }
  await finished;

  const revisions = [...new Set(seen)];
  expect(revisions).toEqual(Array.from({ length: 320 }, (_, index) => BigInt(index + 1)));
  expect(seen).toEqual(seen.toSorted((a, b) => Number(a - b)));
});

test("what a transaction changed carries its revision, and the event carries what the service became", async () => {
  const store = await startStore();
  const service = await create(store, "web");

  const { revision, services } = await store.write(async (tx) => {
    await tx.updateService(service, { wish: "stopped", version: 2 });
    tx.append({ ...anOccurrence(), body: { type: "wish_changed", wish: "stopped" }, service });
  });

  const [event] = await store.events.readAfter(revision - 1n, 1);
  const { service: now } = await store.services.byName("web");
  expect(now).toMatchObject({ revision, wish: "stopped", version: 2 });
  expect(services.get(service.uid)).toEqual(now);
  expect(event?.after).toEqual(now);
});

test("the event of a removal carries the service as it was last", async () => {
  const store = await startStore();
  const service = await create(store, "web");

  const revision = await remove(store, service);

  const events = await store.events.readAfter(revision - 1n, 1);
  expect(events.map(({ body }) => body.type)).toEqual(["service_deleted"]);
  const { name, uid, spec } = service;
  expect(events[0]?.after).toMatchObject({ name, uid, spec, wish: "deleted", revision });
  expect((await store.services.byName("web")).service).toBeUndefined();
});

test("a dry run does all and leaves nothing, not even a number", async () => {
  const store = await startStore();
  const before = await append(store);

  const { value, revision } = await store.write((tx) => insert(tx, "web"), { dryRun: true });

  expect(value).not.toBe("");
  expect(revision).toBe(0n);
  expect((await store.services.byName("web")).service).toBeUndefined();
  expect(await append(store)).toBe(before + 1n);
});

test("what is noted before the commit is in the same transaction, and failing there takes all back", async () => {
  const store = await startStore();
  const before = await append(store);

  const failing = store.write((tx) => insert(tx, "web"), { beforeCommit: () => Promise.reject(new Error("no")) });

  await expect(failing).rejects.toThrow("no");
  expect((await store.services.byName("web")).service).toBeUndefined();
  expect(await append(store)).toBe(before + 1n);
});

test("two writers that wait for each other both get through", async () => {
  const store = await startStore({ ...(await emptyDatabase()), options: "-c deadlock_timeout=20ms" });
  const [first, second] = [await create(store, "a"), await create(store, "b")];
  const bothHaveOne = barrier(2);
  const tries = { forth: 0, back: 0 };

  const lockBoth = (order: readonly Service[], way: keyof typeof tries) =>
    store.write(async (tx) => {
      tries[way]++;
      for (const { uid } of order) {
        await tx.serviceByUid(uid, { lock: true });
        await bothHaveOne();
      }
      tx.append(anOccurrence());
    });
  const written = await Promise.all([lockBoth([first, second], "forth"), lockBoth([second, first], "back")]);

  expect(new Set(written.map(({ revision }) => revision)).size).toBe(2);
  expect(tries.forth + tries.back).toBeGreaterThan(2);
});

test("too many deadlocks in a row are the caller's to retry", async () => {
  const pool = openPool(await emptyDatabase());
  let tries = 0;

  const run = () => {
    tries++;
    return query(pool, "DO $$ BEGIN RAISE deadlock_detected; END $$");
  };

  await expect(retried(run)).rejects.toMatchObject({ reason: "STORE_UNAVAILABLE" });
  expect(tries).toBe(5);
});

test("reads together are true at one moment", async () => {
  const connection = await emptyDatabase();
  const store = await startStore(connection);
  const pool = openPool(connection);
  await append(store);

  const [first, second] = await readTogether(pool, async (client) => {
    const before = await query<{ head: bigint }>(client, "SELECT head FROM store");
    await append(store);
    return [before, await query<{ head: bigint }>(client, "SELECT head FROM store")];
  });

  expect(second).toEqual(first);
});

test.for([
  { lost: "answer", what: "is found to be written, with its revision and what it changed" },
  { lost: "statement", what: "is found not to be written, and says so" },
] as const)("a commit whose $lost was lost $what", async ({ lost }) => {
  const { store, wire, connection } = await startStoreOverWire();
  const service = await create(store, "web");
  wire.breakAt({ statement: "COMMIT", lost });

  const write = store.write(async (tx) => {
    await tx.updateService(service, { wish: "stopped", version: 2 });
    tx.append({ ...anOccurrence("stop"), body: { type: "wish_changed", wish: "stopped" }, service });
    return "done";
  });

  const [outcome] = await Promise.allSettled([write]);
  const [stored] = await read<{ wish: string }>(connection, "SELECT wish FROM services");
  if (lost === "answer") {
    expect(outcome).toMatchObject({ status: "fulfilled", value: { value: "done", revision: service.revision + 1n } });
    if (outcome.status === "fulfilled") expect(outcome.value.services.get(service.uid)?.wish).toBe("stopped");
    expect(stored?.wish).toBe("stopped");
  } else {
    expect(outcome).toMatchObject({ status: "rejected", reason: { reason: "STORE_UNAVAILABLE" } });
    expect(stored?.wish).toBe("running");
  }
  expect(await touch(store, service)).toBe(service.revision + (lost === "answer" ? 2n : 1n));
});

test("a connection that ends before a write that asks nothing fails that write alone", async () => {
  const { store, wire } = await startStoreOverWire();
  const before = await append(store);
  wire.breakAt({ statement: "BEGIN", lost: "statement" });

  await expect(append(store)).rejects.toMatchObject({ reason: "STORE_UNAVAILABLE" });

  expect(await append(store)).toBe(before + 1n);
});

test("a transaction that is still running has no outcome until it ends", async () => {
  const connection = await emptyDatabase();
  const pool = openPool(connection);
  const { promise: held, resolve: release } = Promise.withResolvers<void>();
  const { promise: known, resolve: tell } = Promise.withResolvers<string>();
  const running = committed(pool, async (client) => {
    const [row] = await query<{ xid: string }>(client, "SELECT pg_current_xact_id()::text AS xid");
    tell(row?.xid ?? "");
    await held;
    return { answer: query(client, "SELECT 1") };
  });
  const xid = await known;

  const look = async (said: string) => said;
  await expect(outcomeOf(pool, xid, look, AbortSignal.abort())).rejects.toMatchObject({ reason: "STORE_UNAVAILABLE" });
  const outcome = outcomeOf(pool, xid, look, AbortSignal.timeout(20_000));
  release();

  await running;
  expect(await outcome).toBe("committed");
});

test.for([
  { others: 0, when: "when its number is not given out again" },
  { others: 5, when: "when another transaction has got its number" },
])("a write that a crash of the database took with it is not taken for written, $when", async ({ others }) => {
  const postgres = await PrivatePostgres.start();
  atEnd(() => postgres.dispose());
  const { store, wire } = await startStoreOverWire(postgres.connection);
  const direct = await startStore(postgres.connection);
  wire.breakAt({ statement: "COMMIT", lost: "statement", stays: true });
  const lost = store.facts.record({ events: [{ body: { type: "proxy_up" }, message: "lost at first" }] });
  await wire.broken;

  await postgres.stop("kill");
  await postgres.start();
  for (let other = 0; other < others; other++) await eventually(() => append(direct, 1, "other"));
  wire.mend();

  expect(await lost).toBe(BigInt(others + 1));
  const messages = (await wholeLog(direct)).map(({ message }) => message);
  expect(messages).toEqual([...Array.from({ length: others }, () => "other"), "lost at first"]);
});

test("the log says of every event who, where, why and when", async () => {
  const store = await startStore();
  const requestId = randomUUID();
  const began = Date.now();

  await store.write(async (tx) =>
    tx.append({ ...anOccurrence("the proxy answers: ✓ \u{1F600}"), actor: "web", requestId }),
  );

  const [event] = await wholeLog(store);
  expect(event).toMatchObject({ node: "here", actor: "web", requestId, message: "the proxy answers: ✓ \u{1F600}" });
  expect(Math.abs((event?.time.getTime() ?? 0) - began)).toBeLessThan(60_000);
});

test("an idle connection that ends is told without what it was", async () => {
  const connection = await emptyDatabase();
  const ended = Promise.withResolvers<Error>();
  const pool = createPool({ ...connection, application_name: "idle one" }, { onIdleError: ended.resolve });
  atEnd(() => pool.end());
  await pool.query("SELECT 1");

  expect(await terminate(connection, "idle one")).toBe(1);

  expect(Object.keys(await ended.promise)).not.toContain("client");
});

/** Waits until so many have come, and for nobody afterwards. */
function barrier(count: number): () => Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  let come = 0;
  return () => {
    if (++come === count) resolve();
    return promise;
  };
}

interface Writer {
  readonly events: number;
  readonly creates: boolean;
  readonly fails: boolean;
}

function aWriter(): fc.Arbitrary<Writer> {
  return fc
    .record({ events: fc.integer({ min: 0, max: 4 }), creates: fc.boolean(), fails: fc.boolean() })
    .filter(({ events, creates }) => events > 0 || creates);
}

async function startStoreOverWire(database?: EmbeddedConnection) {
  const connection = database ?? (await emptyDatabase());
  const wire = await PostgresWire.to(connection);
  atEnd(() => wire.close());
  return { store: await startStore(wire.connection), wire, connection };
}
