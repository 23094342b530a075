import { randomUUID } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Route } from "../../src/domain/route.ts";
import type { Service } from "../../src/domain/service.ts";
import { nameKey } from "../../src/domain/service-name.ts";
import type { Instance } from "../../src/domain/status.ts";
import type { Token } from "../../src/domain/token.ts";
import type { Store } from "../../src/store/store.ts";
import { aRoute } from "../rpc/arbitrary.ts";
import { query } from "../support/postgres.ts";
import { anInstance, aToken, create, emptyDatabase, remove, startStore } from "./workbench.ts";

test("whatever comes and goes between pages of services, what stays is listed once and in order", async () => {
  const store = await startStore();
  await fc.assert(
    fc.asyncProperty(aListing(), async ({ staying, going, coming, limit }) => {
      const kept = await createAll(store, staying);
      const left = await createAll(store, going);

      const names = await readPages(limit, (last: Service | undefined) =>
        Promise.all([store.services.page({ afterName: last?.name, limit }), change(store, left, coming)]).then(
          ([page]) => page.services,
        ),
      );

      const keys = names.map(({ name }) => nameKey(name));
      expect(keys).toEqual([...new Set(keys)].toSorted());
      expect(keys).toEqual(expect.arrayContaining(kept.map(({ name }) => nameKey(name))));
      await clear(store);
    }),
    { numRuns: 15 },
  );
});

test("whatever comes and goes between pages of routes, what stays is listed once and in order", async () => {
  const store = await startStore();
  await fc.assert(
    fc.asyncProperty(aListing(), async ({ staying, going, limit }) => {
      const kept = await createAll(store, staying);
      const left = await createAll(store, going);
      await saveRoutes(store, [...kept, ...left]);

      const routes = await readPages(limit, async (last: Route | undefined) => {
        const leaving = left.pop();
        if (leaving !== undefined) await store.write((tx) => tx.removeRoute(leaving.uid));
        return store.routes.page({ afterService: last?.service, limit });
      });

      const keys = routes.map(({ service }) => nameKey(service));
      expect(keys).toEqual([...new Set(keys)].toSorted());
      expect(keys).toEqual(expect.arrayContaining(kept.map(({ name }) => nameKey(name))));
      await store.write(async (tx) => {
        for (const { uid } of await allServices(store)) await tx.removeRoute(uid);
      });
      await clear(store);
    }),
    { numRuns: 10 },
  );
});

test("a database whose language has its own lower case lists routes as any other", async () => {
  const connection = await emptyDatabase();
  const store = await startStore(connection);
  await query(connection, 'ALTER TABLE routes ALTER COLUMN service TYPE text COLLATE "tr-x-icu"');
  await saveRoutes(store, await createAll(store, ["IA", "ib", "IC"]));

  const routes: Route[] = [];
  for (const afterService of [undefined, "IA", "ib", "IC"])
    routes.push(...(await store.routes.page({ afterService, limit: 1 })));

  expect(routes.map(({ service }) => service)).toEqual(["IA", "ib", "IC"]);
});

test("whatever begins and ends between pages of instances and tokens, what stays is listed once, newest first", async () => {
  const store = await startStore();
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 30 }),
      fc.integer({ min: 1, max: 7 }),
      async (milliseconds, limit) => {
        const service = await create(store, `s-${randomUUID()}`);
        const owner = { name: service.name, uid: service.uid };
        const exit = {
          reason: "lost",
          code: undefined,
          signal: undefined,
          message: "",
          time: new Date(),
          requested: false,
        } as const;
        const at = (millisecond: number) => new Date(Date.UTC(2026, 0, 1, 0, 0, 0, millisecond));
        const add = (createTime: Date) =>
          store.write(async (tx) => {
            await tx.saveInstance(anInstance(service, { createTime, state: "ended", exit }));
            await tx.insertToken(aToken({ service: owner, createTime }));
          });
        for (const millisecond of milliseconds) await add(at(millisecond));
        const placeOf = ({ createTime, id }: { createTime: Date; id: string }) => ({ time: createTime, id });
        const idOf = ({ id }: { id: string }) => id;

        const instances = await readPages(limit, async (last: Instance | undefined) => {
          await add(at(1_000));
          const after = last && placeOf(last);
          return store.instances.page({ serviceUid: service.uid, liveOnly: false, after, limit });
        });
        const tokens = await readPages(limit, async (last: Token | undefined) => {
          await add(at(2_000));
          return store.tokens.page({ serviceUid: service.uid, showEnded: true, after: last && placeOf(last), limit });
        });

        for (const listed of [instances, tokens]) {
          const old = listed.filter(({ createTime }) => createTime < at(1_000));
          expect(old).toHaveLength(milliseconds.length);
          expect(new Set(listed.map(idOf)).size).toBe(listed.length);
          expect(listed).toEqual(
            listed.toSorted((a, b) => Number(b.createTime) - Number(a.createTime) || (a.id < b.id ? 1 : -1)),
          );
        }
      },
    ),
    { numRuns: 15 },
  );
});

test("lists show the live, the usable or all, of one service or of every one", async () => {
  const store = await startStore();
  const [web, other] = [await create(store, "web"), await create(store, "other")];
  const exit = {
    reason: "exited",
    code: 0,
    signal: undefined,
    message: "",
    time: new Date(),
    requested: true,
  } as const;
  const [ended, live, others] = [anInstance(web, { state: "ended", exit }), anInstance(web), anInstance(other)];
  const now = Date.now();
  const [usable, revoked, expired, operators] = [
    aToken({ service: { name: "web", uid: web.uid } }),
    aToken({ service: { name: "web", uid: web.uid } }),
    aToken({ service: { name: "web", uid: web.uid }, expireTime: new Date(now - 1_000) }),
    aToken({ expireTime: new Date(now + 3_600_000) }),
  ];
  await store.write(async (tx) => {
    for (const instance of [ended, live, others]) await tx.saveInstance(instance);
    for (const token of [usable, revoked, expired, operators]) await tx.insertToken(token);
    await tx.updateToken(revoked.id, { revokeTime: new Date(now - 1_000) });
  });

  const listed = async (serviceUid: string | undefined, all: boolean) => {
    const o = { serviceUid, after: undefined, limit: 10 };
    const instances = await store.instances.page({ ...o, liveOnly: !all });
    const tokens = await store.tokens.page({ ...o, showEnded: all });
    return [...instances, ...tokens].map(({ id }) => id).toSorted();
  };

  expect(await listed(web.uid, true)).toEqual(ids(ended, live, usable, revoked, expired));
  expect(await listed(web.uid, false)).toEqual(ids(live, usable));
  expect(await listed(undefined, true)).toEqual(ids(ended, live, others, usable, revoked, expired, operators));
  expect(await listed(undefined, false)).toEqual(ids(live, others, usable, operators));
});

function ids(...things: readonly { readonly id: string }[]): string[] {
  return things.map(({ id }) => id).toSorted();
}

/** Reads pages until one is not full, and checks that none is larger than asked for. */
async function readPages<T>(limit: number, readPage: (last: T | undefined) => Promise<T[]>): Promise<T[]> {
  const things: T[] = [];
  for (;;) {
    const page = await readPage(things.at(-1));
    expect(page.length).toBeLessThanOrEqual(limit);
    things.push(...page);
    if (page.length < limit) return things;
  }
}

function aListing() {
  const name = fc.stringMatching(/^[A-Za-z0-9]([A-Za-z0-9._-]{0,4}[A-Za-z0-9])?$/);
  return fc
    .record({
      names: fc.uniqueArray(name, { selector: nameKey, minLength: 3, maxLength: 30 }),
      limit: fc.integer({ min: 1, max: 7 }),
    })
    .map(({ names, limit }) => ({
      limit,
      staying: names.filter((_, index) => index % 3 === 0),
      going: names.filter((_, index) => index % 3 === 1),
      coming: names.filter((_, index) => index % 3 === 2),
    }));
}

function createAll(store: Store, names: readonly string[]): Promise<Service[]> {
  return Promise.all(names.map((name) => create(store, name)));
}

/** One service goes and one comes, while there are some to. */
async function change(store: Store, left: Service[], coming: string[]): Promise<void> {
  const [leaving, name] = [left.pop(), coming.pop()];
  if (leaving !== undefined) await remove(store, leaving);
  if (name !== undefined) await create(store, name);
}

async function saveRoutes(store: Store, services: readonly Service[]): Promise<void> {
  await store.write(async (tx) => {
    for (const { name, uid } of services)
      await tx.saveRoute(aRoute({ service: name, serviceUid: uid, prefix: `/services/${name}/` }));
  });
}

async function allServices(store: Store): Promise<Service[]> {
  return (await store.services.snapshot()).services;
}

async function clear(store: Store): Promise<void> {
  for (const service of await allServices(store)) await remove(store, service);
}
