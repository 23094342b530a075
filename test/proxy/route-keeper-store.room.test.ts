import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { systemClock } from "../../src/domain/clock.ts";
import type { Service } from "../../src/domain/service.ts";
import { Feed } from "../../src/events/feed.ts";
import { ConfigurableHttpProxy } from "../../src/proxy/configurable-http-proxy.ts";
import { RouteKeeper } from "../../src/proxy/route-keeper.ts";
import { Store } from "../../src/store/store.ts";
import { eventually } from "../support/eventually.ts";
import { createTestDatabase } from "../support/postgres.ts";
import { atEnd, externalService, ForeignProxy, silentLog, startTarget } from "./workbench.ts";

async function startStore(): Promise<{ store: Store; feed: Feed }> {
  const database = await createTestDatabase();
  atEnd(() => database.drop());
  const store = new Store({ connection: { ...database.connection }, node: "here", log: silentLog });
  atEnd(() => store.stop());
  await store.start();
  const { events, wakeups, storeUid } = store;
  const source = {
    readAfter: (revision: bigint, limit: number) => events.readAfter(revision, limit),
    bounds: () => events.bounds(),
    onAppended: (listener: () => void) => wakeups.onAppended(listener),
  };
  const feed = new Feed(source, { storeUid, onFailure: () => {} });
  atEnd(() => feed.stop());
  await feed.start();
  return { store, feed };
}

async function startKeeper(proxy: ForeignProxy, store: Store, feed: Feed): Promise<RouteKeeper> {
  const { apiUrl: url, token } = proxy;
  const { storeUid, services, facts } = store;
  const driver = new ConfigurableHttpProxy({ url, token, clock: systemClock, owner: storeUid.slice(0, 12), epoch: 1 });
  const rooms = { driver, services, feed, facts, clock: systemClock, log: silentLog };
  const keeper = new RouteKeeper({ ...rooms, proxy: "default", storeUid, epoch: 1 });
  atEnd(async () => {
    await keeper.stop();
    driver.close();
  });
  await keeper.start();
  return keeper;
}

async function create(store: Store, name: string, url: string): Promise<Service> {
  const { spec, status } = externalService(name, url);
  const uid = randomUUID();
  const { services } = await store.write(async (tx) => {
    await tx.insertService({ name, uid, spec, status, apiTokenSealed: undefined, setName: "", wish: "running" });
    const service = { name, uid, generation: 1 };
    tx.append({ body: { type: "service_created" }, service, actor: "operator", requestId: undefined, message: "" });
  });
  const service = services.get(uid);
  if (service === undefined) throw new Error("not written");
  return service;
}

async function remove(store: Store, { name, uid, generation }: Service): Promise<void> {
  await store.write(async (tx) => {
    await tx.updateService({ name, uid }, { wish: "deleted" });
    const service = { name, uid, generation };
    const body = { type: "wish_changed", wish: "deleted" } as const;
    tx.append({ body, service, actor: "operator", requestId: undefined, message: "" });
    await tx.finishDeletion(uid);
  });
}

test("what the store is told is in place on the proxy, and what the proxy confirms is in the store", async () => {
  const proxy = await ForeignProxy.start();
  const { store, feed } = await startStore();
  await startKeeper(proxy, store, feed);
  const target = await startTarget("target");

  const service = await create(store, "grader", target);
  const programmed = await eventually(async () => {
    const { service: now } = await store.services.byName("grader");
    return now?.route?.state === "programmed" ? now.route : undefined;
  });
  const reply = await proxy.visit("/services/grader/x");
  await remove(store, service);
  await eventually(async () => (await store.services.byName("grader")).service === undefined);

  expect(programmed).toMatchObject({
    service: "grader",
    serviceUid: service.uid,
    prefix: "/services/grader/",
    target,
    generation: 1,
    programmedGeneration: 1,
    proxy: "default",
    reason: "",
  });
  expect(programmed.confirmTime).toBeInstanceOf(Date);
  expect(reply.text).toBe("target /services/grader/x");
  expect((await proxy.visit("/services/grader/x")).status).toBe(404);
  const events = await store.events.readAfter(0n, 1_000);
  expect(events.map(({ body }) => body.type).filter((type) => type !== "proxy_up")).toEqual([
    "service_created",
    "route_pending",
    "route_programmed",
    "wish_changed",
    "route_removing",
    "route_removed",
    "service_deleted",
  ]);
});

test("a hundred services that come and go at once end as wished", async () => {
  const proxy = await ForeignProxy.start();
  const { store, feed } = await startStore();
  await startKeeper(proxy, store, feed);
  const target = await startTarget("target");

  const services = await Promise.all(Array.from({ length: 100 }, (_, index) => create(store, `s-${index}`, target)));
  await Promise.all(services.slice(0, 50).map((service) => remove(store, service)));
  await eventually(async () => {
    const { services: left } = await store.services.snapshot();
    return left.length === 50 && left.every(({ route }) => route?.state === "programmed");
  });

  await eventually(async () => Object.keys(await proxy.targets()).length === 50);
  expect(Object.keys(await proxy.targets()).sort()).toEqual(
    services
      .slice(50)
      .map(({ name }) => `/services/${name}`)
      .sort(),
  );
});
