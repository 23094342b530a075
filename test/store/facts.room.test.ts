import { randomUUID } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import { type FactChange, FactRecorder, type FactStore } from "../../src/store/facts.ts";
import type { Store } from "../../src/store/store.ts";
import { aRoute, aStatus } from "../rpc/arbitrary.ts";
import { eventually } from "../support/eventually.ts";
import { PrivatePostgres } from "../support/postgres.ts";
import { PostgresWire } from "../support/postgres-wire.ts";
import { anInstance, append, aToken, atEnd, create, emptyDatabase, startStore, wholeLog } from "./workbench.ts";

test("a burst of facts costs few transactions, keeps its order and loses none", async () => {
  const store = await startStore();
  const service = await create(store, "web");
  const { head: before } = await store.events.bounds();

  const revisions = await Promise.all(
    Array.from({ length: 1_000 }, (_, index) => store.facts.record(aFact(service.uid, String(index)))),
  );

  const log = (await wholeLog(store)).filter(({ revision }) => revision > before);
  expect(log.map(({ message }) => message)).toEqual(Array.from({ length: 1_000 }, (_, index) => String(index)));
  expect(log.map(({ revision }) => revision)).toEqual(revisions);
  expect((await store.events.bounds()).head - before).toBe(10n);
});

test("facts that come while others are on their way go together", async () => {
  const { store, writes } = counted(await startStore());
  const facts = new FactRecorder(store);

  const first = facts.record(aFact(undefined, "first"));
  await eventually(() => writes.length === 1);
  const others = Array.from({ length: 50 }, (_, index) => facts.record(aFact(undefined, String(index))));
  await Promise.all([first, ...others]);

  expect(writes).toHaveLength(2);
});

test("whatever wishes change meanwhile, a guarded fact is written only while its wish holds", async () => {
  const store = await startStore();
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 20 }), async (generations) => {
      const service = await create(store, `s-${randomUUID()}`);

      const raising = store.write((tx) => tx.updateService(service, { generation: 2, version: 2 }));
      const outcomes = await Promise.allSettled(
        generations.map((generation) =>
          store.facts.record({ ...aFact(service.uid, String(generation)), guard: { generation, wish: "running" } }),
        ),
      );
      await raising;

      const written = (await wholeLog(store)).filter(
        (event) => event.service?.uid === service.uid && event.body.type === "service_stopped",
      );
      expect(written.map(({ message }) => message)).toEqual(
        generations.filter((_, index) => outcomes[index]?.status === "fulfilled").map(String),
      );
      for (const [index, outcome] of outcomes.entries()) {
        if (generations[index] === 3) expect(outcome.status).toBe("rejected");
        if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "aborted" });
      }
    }),
    { numRuns: 20 },
  );
});

test("a guard refuses another generation, another wish and a service that is gone, and writes nothing of it", async () => {
  const store = await startStore();
  const service = await create(store, "web");
  const instance = anInstance(service);
  const refuse = (uid: string, guard: FactChange["guard"]) =>
    expect(
      store.facts.record({
        ...aFact(uid, "refused"),
        instances: [instance],
        status: aStatus({ state: "failed" }),
        ...(guard && { guard }),
      }),
    ).rejects.toMatchObject({ code: "aborted" });

  await Promise.all([
    refuse(service.uid, { generation: 2, wish: "running" }),
    refuse(service.uid, { generation: 1, wish: "stopped" }),
    refuse(service.uid, { generation: 1, wish: "running", version: 2 }),
    refuse(randomUUID(), { generation: 1, wish: "running" }),
    store.facts.record({ ...aFact(service.uid, "kept"), guard: { generation: 1, wish: "running", version: 1 } }),
  ]);

  expect((await wholeLog(store)).map(({ message }) => message)).toEqual(["", "kept"]);
  expect(await store.instances.live("here")).toEqual([]);
  expect((await store.services.byName("web")).service?.status.state).toBe("running");
});

test("a fact that the database refuses takes no other with it", async () => {
  const store = await startStore();
  const service = await create(store, "web");
  const live = anInstance(service);

  const outcomes = await Promise.allSettled([
    store.facts.record({ ...aFact(service.uid, "a"), instances: [live] }),
    store.facts.record({ ...aFact(service.uid, "second live instance"), instances: [anInstance(service)] }),
    store.facts.record(aFact(service.uid, "b")),
  ]);

  expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
  expect((await wholeLog(store)).map(({ message }) => message)).toEqual(["", "a", "b"]);
  expect(await store.instances.live("here")).toEqual([live]);
});

test("of several statuses in a burst the last one stays", async () => {
  const store = await startStore();
  const service = await create(store, "web");

  await Promise.all(
    [1, 2, 3].map((restarts) => store.facts.record({ ...aFact(service.uid, ""), status: aStatus({ restarts }) })),
  );

  expect((await store.services.byName("web")).service?.status).toEqual(aStatus({ restarts: 3 }));
});

test("a new instance's token ends those of the instances before it, and only those", async () => {
  const store = await startStore();
  const service = await create(store, "web");
  const createTime = new Date();
  const [issued, first, second] = (["issued", "instance", "instance"] as const).map((source) =>
    aToken({ service: { name: "web", uid: service.uid }, source, createTime }),
  );
  if (issued === undefined || first === undefined || second === undefined) throw new Error("three tokens");
  await store.write((tx) => tx.insertToken(issued));

  for (const instanceToken of [first, second]) await store.facts.record({ ...aFact(service.uid, ""), instanceToken });

  const tokens = await store.tokens.ofService(service.uid);
  const ended = tokens.filter(({ token }) => token.revokeTime !== undefined).map(({ token }) => token.id);
  expect(tokens).toHaveLength(3);
  expect(ended).toEqual([first.id]);
});

test("the last fact of a service that is wished deleted removes it", async () => {
  const store = await startStore();
  const service = await create(store, "web");
  const instance = anInstance(service);
  const route = aRoute({ service: "web", serviceUid: service.uid });
  await store.facts.record({ ...aFact(service.uid, ""), instances: [instance], route });
  await store.write((tx) => tx.updateService(service, { wish: "deleted", version: 2 }));

  await store.facts.record({ ...aFact(service.uid, "out"), route: { removed: true } });
  const meanwhile = (await store.services.byName("web")).service;
  const exit = {
    reason: "exited",
    code: 0,
    signal: undefined,
    message: "",
    time: new Date(),
    requested: true,
  } as const;
  await store.facts.record({ ...aFact(service.uid, "gone"), instances: [{ ...instance, state: "ended", exit }] });

  expect(meanwhile?.wish).toBe("deleted");
  expect((await store.services.byName("web")).service).toBeUndefined();
  expect((await wholeLog(store)).slice(-2).map(({ body }) => body.type)).toEqual([
    "service_stopped",
    "service_deleted",
  ]);
});

test("a service that is gone does not keep its last facts from being recorded", async () => {
  const store = await startStore();

  const revision = await store.facts.record({ ...aFact(randomUUID(), "late"), status: aStatus() });

  expect((await store.events.readAfter(revision - 1n, 1))[0]).toMatchObject({ message: "late", service: undefined });
});

test("facts wait for a database that is away, and are written once, in order", async () => {
  const postgres = await PrivatePostgres.start();
  atEnd(() => postgres.dispose());
  const store = await startStore(postgres.connection);
  await append(store);

  await postgres.stop("immediate");
  const recorded = ["a", "b", "c"].map((message) => store.facts.record(aFact(undefined, message)));
  await expect(store.ping()).rejects.toMatchObject({ reason: "STORE_UNAVAILABLE" });
  await postgres.start();
  await Promise.all(recorded);

  expect((await wholeLog(store)).map(({ message }) => message)).toEqual(["", "a", "b", "c"]);
});

test.for(["answer", "statement"] as const)("facts whose commit lost its %s are written exactly once", async (lost) => {
  const connection = await emptyDatabase();
  const wire = await PostgresWire.to(connection);
  atEnd(() => wire.close());
  const store = await startStore(wire.connection);
  wire.breakAt({ statement: "COMMIT", lost });

  await Promise.all(["a", "b"].map((message) => store.facts.record(aFact(undefined, message))));
  await store.facts.record(aFact(undefined, "c"));

  expect((await wholeLog(store)).map(({ message, revision }) => [message, revision])).toEqual([
    ["a", 1n],
    ["b", 1n],
    ["c", 2n],
  ]);
});

test("stopping writes what waits, and refuses what comes later", async () => {
  const store = await startStore();
  const recorded = store.facts.record(aFact(undefined, "last"));

  await store.facts.stop();
  const late = store.facts.record(aFact(undefined, "late"));

  await expect(late).rejects.toMatchObject({ reason: "SERVER_DRAINING" });
  expect(await recorded).toBe(1n);
});

test("stopping does not wait for a database that is away", async () => {
  const postgres = await PrivatePostgres.start();
  atEnd(() => postgres.dispose());
  const store = await startStore(postgres.connection);
  await postgres.stop();
  const recorded = expect(store.facts.record(aFact(undefined, "lost"))).rejects.toMatchObject({
    reason: "STORE_UNAVAILABLE",
  });

  await store.facts.stop();

  await recorded;
});

function aFact(serviceUid: string | undefined, message: string): FactChange {
  const events = [{ body: { type: "service_stopped" } as const, message }];
  return serviceUid === undefined ? { events } : { serviceUid, events };
}

/** The store, and one entry for each transaction that was begun on it. */
function counted(store: Store): { store: FactStore; writes: unknown[] } {
  const writes: unknown[] = [];
  return {
    writes,
    store: {
      write: (work, options) => {
        writes.push(options);
        return store.write(work, options);
      },
    },
  };
}
