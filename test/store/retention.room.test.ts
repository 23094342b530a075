import { randomUUID } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Event } from "../../src/domain/event.ts";
import type { Service } from "../../src/domain/service.ts";
import type { EmbeddedConnection } from "../../src/store/embedded-postgres.ts";
import { compact, type Kept } from "../../src/store/retention.ts";
import type { Store } from "../../src/store/store.ts";
import { query } from "../support/postgres.ts";
import {
  age,
  anInstance,
  anOccurrence,
  append,
  aToken,
  create,
  emptyDatabase,
  openPool,
  read,
  remove,
  startStore,
  touch,
} from "./workbench.ts";

test("events of seven days are kept, and the last thousand of each service, however old they are", async () => {
  const { store, pool, connection } = await startStoreWithPool();
  const [busy, quiet] = [await create(store, "busy"), await create(store, "quiet")];
  for (let transaction = 0; transaction < 15; transaction++) await touchOften(store, busy, 100);
  await age(connection, await append(store), 8);
  await touchOften(store, busy, 100);

  await compact(pool);

  const left = await all(store);
  expect(left.filter(({ service }) => service?.uid === quiet.uid)).toHaveLength(1);
  expect(left.filter(({ service }) => service?.uid === busy.uid)).toHaveLength(1_000);
  expect(left.filter(({ service }) => service === undefined)).toEqual([]);
  const { head, oldest } = await store.events.bounds();
  expect([oldest, head]).toEqual([18n, 19n]);
});

test("events that are younger than seven days stay, whoever they are of", async () => {
  const { store, pool, connection } = await startStoreWithPool();
  const service = await create(store, "web");
  await touchOften(store, service, 1_200);
  await append(store);
  await remove(store, service);
  await age(connection, (await store.events.bounds()).head, 6);
  const before = await all(store);

  await compact(pool);

  expect(await all(store)).toEqual(before);
  expect((await store.events.bounds()).oldest).toBe(0n);
});

test("a service that is gone keeps no event that is older", async () => {
  const { store, pool, connection } = await startStoreWithPool();
  const service = await create(store, "web");
  await touch(store, service);
  await age(connection, await remove(store, service), 8);
  const revision = await append(store);

  await compact(pool);

  expect((await all(store)).map((event) => event.revision)).toEqual([revision]);
});

test("a transaction that reaches over the thousandth event is kept whole", async () => {
  const { store, pool, connection } = await startStoreWithPool();
  const service = await create(store, "web");
  for (let transaction = 0; transaction < 4; transaction++) await touchOften(store, service, 300);
  await age(connection, (await store.events.bounds()).head, 8);

  await compact(pool);

  const left = await all(store);
  expect(left).toHaveLength(1_200);
  expect(new Set(left.map(({ revision }) => revision))).toEqual(new Set([2n, 3n, 4n, 5n]));
});

test("a log of nothing but old events can be resumed at its end only", async () => {
  const { store, pool, connection } = await startStoreWithPool();
  await age(connection, await append(store), 8);

  await compact(pool);

  expect(await store.events.bounds()).toEqual({ head: 1n, oldest: 1n });
  expect(await append(store)).toBe(2n);
});

test("more revisions than one turn goes through are gone through", async () => {
  const { store, pool, connection } = await startStoreWithPool();
  await query(
    connection,
    `INSERT INTO events (revision, index, time, node, actor, message, body)
       SELECT r, 0, now() - interval '8 days', 'here', 'steward', '', '{"type": "proxy_up"}' FROM generate_series(1, 3500) AS r;
     UPDATE store SET head = 3500`,
  );

  await compact(pool);

  expect(await all(store)).toEqual([]);
  expect(await read(connection, "SELECT head, compacted, swept FROM store")).toEqual([
    { head: "3500", compacted: "3500", swept: "3500" },
  ]);
});

test("whatever was written and however often it is compacted, what is promised is there", async () => {
  const kept: Kept = { days: 7, eventsOfService: 3, instancesOfService: 2 };
  await fc.assert(
    fc.asyncProperty(fc.array(aStep(), { minLength: 5, maxLength: 60 }), async (steps) => {
      const { store, pool, connection } = await startStoreWithPool();
      const services = [await create(store, "a"), await create(store, "b"), await create(store, "c")];
      const present = new Set(services);
      const log: Event[] = [];
      const note = async () => log.push(...(await store.events.readAfter(log.at(-1)?.revision ?? 0n, 1_000)));
      let old = 0n;
      await note();

      for (const { what, which } of steps) {
        const service = services[which];
        if (what === "age") {
          old = (await store.events.bounds()).head;
          await age(connection, old, 8);
        } else if (what === "compact") await Promise.all([compact(pool, { kept }), compact(pool, { kept })]);
        else if (service === undefined || !present.has(service)) await append(store);
        else if (what === "touch") await touchOften(store, service, 1 + which);
        else if (present.delete(service)) await remove(store, service);
        await note();
      }
      await compact(pool, { kept });

      const left = new Set((await all(store)).map(placeOf));
      const { oldest, head } = await store.events.bounds();
      expect([oldest, head]).toEqual([old, log.at(-1)?.revision]);
      for (const event of log.filter(({ revision }) => revision > oldest)) expect(left).toContain(placeOf(event));
      for (const { uid } of present) {
        const last = log.filter((event) => event.service?.uid === uid).slice(-kept.eventsOfService);
        for (const event of last) expect(left).toContain(placeOf(event));
      }
      await store.stop();
    }),
    { numRuns: 8 },
  );
});

test("readers of a log that is compacted meanwhile see no gap, or that they are too late", async () => {
  const { store, pool, connection } = await startStoreWithPool();
  const service = await create(store, "web");
  let writing = true;
  const compacting = (async () => {
    while (writing) {
      const { head } = await store.events.bounds();
      await age(connection, head - 20n > 0n ? head - 20n : 0n, 8);
      await compact(pool, { kept: { days: 7, eventsOfService: 5, instancesOfService: 1 } });
    }
  })();
  const reading = Promise.all(
    Array.from({ length: 3 }, async () => {
      let checked = 0;
      while (writing || checked === 0) {
        const { oldest, head } = await store.events.bounds();
        const events = await store.events.readAfter(oldest, 10);
        if ((await store.events.bounds()).oldest > oldest || oldest === head) continue;
        const revisions = [...new Set(events.map(({ revision }) => revision))];
        expect(revisions).toEqual(revisions.map((_, index) => oldest + 1n + BigInt(index)));
        expect(events.length).toBeGreaterThan(0);
        checked++;
      }
      return checked;
    }),
  );

  await Promise.all(
    Array.from({ length: 4 }, async () => {
      for (let turn = 0; turn < 60; turn++) await (turn % 2 === 0 ? touch(store, service) : append(store, 2));
    }),
  ).finally(() => {
    writing = false;
  });
  const [checked] = await Promise.all([reading, compacting]);

  expect(Math.min(...checked)).toBeGreaterThan(0);
});

test("ended instances, tokens and requests that no promise covers go, the others stay", async () => {
  const { store, pool } = await startStoreWithPool();
  const service = await create(store, "web");
  const owner = { name: "web", uid: service.uid };
  const daysAgo = (days: number) => new Date(Date.now() - days * 86_400_000);
  const exit = {
    reason: "lost",
    code: undefined,
    signal: undefined,
    message: "",
    time: daysAgo(9),
    requested: false,
  } as const;
  const ended = (days: number, of: Pick<Service, "name" | "uid" | "generation"> = service) =>
    anInstance({ ...service, ...of }, { state: "ended", exit, createTime: daysAgo(days) });
  const live = anInstance(service, { createTime: daysAgo(30) });
  const old = Array.from({ length: 102 }, (_, index) => ended(200 - index));
  const gone = { name: "gone", uid: randomUUID(), generation: 1 };
  const [oldOfGone, newOfGone] = [ended(8, gone), ended(1, gone)];
  const usable = aToken({ service: owner, createTime: daysAgo(400) });
  const [lately, long, longExpired] = [1, 8, 8].map((days, index) =>
    aToken({ service: owner, ...(index === 2 && { expireTime: daysAgo(days) }) }),
  );
  if (lately === undefined || long === undefined || longExpired === undefined) throw new Error("three tokens");
  await store.write(async (tx) => {
    for (const instance of [live, ...old, oldOfGone, newOfGone]) await tx.saveInstance(instance);
    for (const token of [usable, lately, long, longExpired]) await tx.insertToken(token);
    await tx.updateToken(lately.id, { revokeTime: daysAgo(1) });
    await tx.updateToken(long.id, { revokeTime: daysAgo(8) });
    for (const days of [-1, 1]) await tx.claimRequest("operator", "Create", randomUUID(), "hash", daysAgo(days));
  });

  await compact(pool);

  const instances = await store.instances.page({
    serviceUid: undefined,
    liveOnly: false,
    after: undefined,
    limit: 1_000,
  });
  const tokens = await store.tokens.page({ serviceUid: undefined, showEnded: true, after: undefined, limit: 1_000 });
  const kept = [live, ...old.slice(3), newOfGone];
  expect(new Set(instances.map(({ id }) => id))).toEqual(new Set(kept.map(({ id }) => id)));
  expect(new Set(tokens.map(({ id }) => id))).toEqual(new Set([usable.id, lately.id]));
  expect((await pool.query("SELECT FROM requests")).rowCount).toBe(1);
});

async function startStoreWithPool(): Promise<{
  store: Store;
  pool: ReturnType<typeof openPool>;
  connection: EmbeddedConnection;
}> {
  const connection = await emptyDatabase();
  return { store: await startStore(connection), pool: openPool(connection), connection };
}

async function touchOften(store: Store, service: Service, times: number): Promise<void> {
  await store.write(async (tx) => {
    for (let index = 0; index < times; index++)
      tx.append({ ...anOccurrence(), body: { type: "service_stopped" }, service });
  });
}

function all(store: Store): Promise<Event[]> {
  return store.events.readAfter(0n, 1_000_000);
}

function placeOf({ revision, index }: Event): string {
  return `${revision}.${index}`;
}

function aStep() {
  return fc.record({
    what: fc.constantFrom("touch", "touch", "touch", "age", "compact", "remove"),
    which: fc.integer({ min: 0, max: 2 }),
  });
}
