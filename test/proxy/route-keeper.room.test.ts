import { createServer } from "node:http";
import { connect } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { expect, test } from "vitest";
import { systemClock } from "../../src/domain/clock.ts";
import { parseServiceSpec } from "../../src/domain/service-spec.ts";
import { ConfigurableHttpProxy } from "../../src/proxy/configurable-http-proxy.ts";
import { RouteKeeper } from "../../src/proxy/route-keeper.ts";
import { noRouteMetrics, type RouteMetrics } from "../../src/proxy/route-metrics.ts";
import type { RouteTiming } from "../../src/proxy/route-timing.ts";
import { eventually } from "../support/eventually.ts";
import {
  atEnd,
  externalService,
  ForeignProxy,
  LittleStore,
  listen,
  newService,
  silentLog,
  startFront,
  startSilent,
  startTarget,
} from "./workbench.ts";

interface KeeperOptions {
  url?: string;
  token?: string;
  timing?: Partial<RouteTiming>;
  callTimeoutMs?: number;
  isProxyGone?: () => boolean;
  metrics?: RouteMetrics;
}

function keeperOf(proxy: ForeignProxy, store: LittleStore, options: KeeperOptions = {}): RouteKeeper {
  const { url = proxy.apiUrl, token = proxy.token, timing = {}, callTimeoutMs = 5_000, ...rest } = options;
  const driver = new ConfigurableHttpProxy({ url, token, clock: systemClock, owner: "ours", epoch: 1, callTimeoutMs });
  const { storeUid } = store;
  const rooms = { driver, services: store, feed: store, facts: store, clock: systemClock, log: silentLog };
  const keeper = new RouteKeeper({ ...rooms, proxy: "default", storeUid, epoch: 1, timing, ...rest });
  atEnd(async () => {
    await keeper.stop();
    driver.close();
  });
  return keeper;
}

async function startKeeper(proxy: ForeignProxy, store: LittleStore, options?: KeeperOptions): Promise<RouteKeeper> {
  const keeper = keeperOf(proxy, store, options);
  await keeper.start();
  return keeper;
}

function isProgrammed(store: LittleStore, name: string): boolean {
  return store.route(name)?.state === "programmed";
}

function areProgrammed(store: LittleStore): boolean {
  return [...store.services.values()].every(({ route }) => route?.state === "programmed");
}

/** Registers services that all lead to one target. */
function register(store: LittleStore, count: number, target: string): void {
  for (let index = 0; index < count; index += 1) store.setExternal(`s-${index}`, target);
}

test("a registered service is reached through the proxy, moved when its url changes and gone when it is deleted", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  const [first, second] = [await startTarget("first"), await startTarget("second")];
  await startKeeper(proxy, store);

  store.setExternal("grader", first);
  await eventually(() => isProgrammed(store, "grader"));
  const before = await proxy.visit("/services/grader/a?b");
  store.setExternal("grader", second);
  await eventually(() => isProgrammed(store, "grader") && store.route("grader")?.generation === 2);
  const after = await proxy.visit("/services/grader/a?b");
  store.delete("grader");
  await eventually(() => store.named("grader") === undefined);

  expect([before.text, after.text]).toEqual(["first /services/grader/a?b", "second /services/grader/a?b"]);
  expect((await proxy.visit("/services/grader/a")).status).toBe(404);
  expect(await proxy.targets()).toEqual({});
  expect(store.told()).toEqual(expect.arrayContaining(["proxy_up"]));
  expect(store.told().filter((what) => what !== "proxy_up")).toEqual([
    "route_pending grader",
    "route_programmed grader",
    "route_pending grader",
    "route_programmed grader",
    "route_removing grader",
    "route_removed grader",
    "service_deleted grader",
  ]);
});

test("a managed service has its route while it is published", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  const target = await startTarget("managed");
  await startKeeper(proxy, store);
  const { spec } = externalService("job", "http://127.0.0.1:0");
  const input = { kind: { type: "managed", command: ["true"] } } as const;
  const { kind } = parseServiceSpec("job", input, { forbidden: [], field: "spec" }).spec;
  const service = newService("job", { ...spec, kind }, { url: target, published: false });

  store.set(service);
  store.set({ ...service, status: { ...service.status, published: true } });
  await eventually(() => isProgrammed(store, "job"));
  const published = await proxy.visit("/services/job/");
  const current = store.named("job") ?? service;
  store.set({ ...current, status: { ...current.status, published: false } });
  await eventually(() => store.route("job") === undefined);

  expect(published.text).toBe("managed /services/job/");
  expect((await proxy.visit("/services/job/")).status).toBe(404);
});

test("a proxy that is killed and comes back empty has its hundred routes again within ten seconds", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  const target = await startTarget("target");
  register(store, 100, target);
  await startKeeper(proxy, store);
  await eventually(() => areProgrammed(store));
  const told = store.events.length;

  await proxy.kill();
  await eventually(() => store.route("s-99")?.state === "degraded");
  await proxy.run();
  const startMs = performance.now();
  await eventually(() => areProgrammed(store), { timeoutMs: 10_000 });

  expect(performance.now() - startMs).toBeLessThan(10_000);
  expect(Object.keys(await proxy.targets())).toHaveLength(100);
  expect((await proxy.visit("/services/s-42/")).text).toBe("target /services/s-42/");
  const later = store.told(told);
  const count = (what: string): number => later.filter((each) => each === what).length;
  expect([count("proxy_down"), count("proxy_up")]).toEqual([1, 1]);
  expect([count("route_degraded s-7"), count("route_programmed s-7"), later.length]).toEqual([1, 1, 202]);
});

test("a proxy that is restarted between two looks is noticed by its missing sentinel", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  let restarts = 0;
  const metrics = { ...noRouteMetrics, proxyRestarted: () => void (restarts += 1) };
  register(store, 10, await startTarget("target"));
  await startKeeper(proxy, store, { metrics });
  await eventually(() => areProgrammed(store));

  await proxy.api("DELETE", "/.steward/ours");
  for (const path of Object.keys(await proxy.targets())) await proxy.api("DELETE", path);

  await eventually(async () => Object.keys(await proxy.targets()).length === 10, { timeoutMs: 6_000 });
  expect(restarts).toBe(1);
});

test("a route that was deleted, altered or taken over by hand is healed, and the drift is counted", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  const [ours, theirs] = [await startTarget("ours"), await startTarget("theirs")];
  register(store, 3, ours);
  const drift: string[] = [];
  const metrics = {
    ...noRouteMetrics,
    drift: (kind: string, count: number) => void (count > 0 && drift.push(`${kind} ${count}`)),
  };
  await startKeeper(proxy, store, { metrics, timing: { observeEveryMs: 300 } });
  await eventually(() => areProgrammed(store));
  const marked = (await proxy.table())["/services/s-1"];

  await proxy.api("DELETE", "/services/s-0");
  await proxy.put("/services/s-1", theirs, { steward: marked?.steward });
  await eventually(async () => Object.values(await proxy.targets()).filter((target) => target === ours).length === 3);

  expect((await proxy.visit("/services/s-1/")).text).toBe("ours /services/s-1/");
  expect(drift.join()).toMatch(/missing 1/);
  expect(drift.join()).toMatch(/changed 1/);
  expect(areProgrammed(store)).toBe(true);
});

test("a foreign route at a wanted prefix blocks it untouched until it is gone, and the neighbours stay", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  const foreign = {
    "/": "http://127.0.0.1:1",
    "/services/taken": "http://127.0.0.1:2",
    "/services": "http://127.0.0.1:3",
  };
  for (const [path, target] of Object.entries(foreign)) await proxy.put(path, target);
  const target = await startTarget("ours");
  store.setExternal("taken", target);
  await startKeeper(proxy, store, { timing: { observeEveryMs: 200 } });

  await eventually(() => store.route("taken")?.state === "blocked");
  const { reason, message } = store.route("taken") ?? {};
  store.setExternal("late", target);
  await eventually(() => isProgrammed(store, "late"));
  await proxy.put("/services/later", "http://127.0.0.1:4");
  store.setExternal("later", target);
  await eventually(() => store.route("later")?.state === "blocked");
  const told = store.told();
  await delay(1_000);
  const untouched = await proxy.targets();
  await proxy.api("DELETE", "/services/taken");
  await eventually(() => isProgrammed(store, "taken"));

  expect(reason).toBe("FOREIGN_ROUTE");
  expect(message).not.toContain("127.0.0.1");
  expect(untouched).toEqual({ ...foreign, "/services/late": target, "/services/later": "http://127.0.0.1:4" });
  expect(told.filter((what) => what === "route_blocked taken")).toHaveLength(1);
  expect(store.told().filter((what) => what === "route_blocked later")).toHaveLength(1);
});

test("without a proxy everything waits with one cause, a start is not held up, and a deletion ends once the proxy is back", async () => {
  const proxy = await ForeignProxy.create();
  const store = new LittleStore();
  const target = await startTarget("target");
  store.setExternal("early", target);
  await startKeeper(proxy, store);

  store.setExternal("late", target);
  await eventually(() => store.route("late")?.reason === "PROXY_UNREACHABLE");
  const down = [store.route("early"), store.route("late")];
  await proxy.run();
  await eventually(() => isProgrammed(store, "early") && isProgrammed(store, "late"), { timeoutMs: 8_000 });
  await proxy.kill();
  await eventually(() => store.route("early")?.state === "degraded");
  store.delete("early");
  await eventually(() => store.route("early")?.state === "removing");
  const removing = store.route("early");
  await delay(500);
  const stillThere = store.named("early");
  await proxy.run();
  await eventually(() => store.named("early") === undefined && isProgrammed(store, "late"), { timeoutMs: 8_000 });

  expect(down.map((route) => route?.state)).toEqual(["pending", "pending"]);
  expect(removing?.reason).toBe("PROXY_UNREACHABLE");
  expect(stillThere).toBeDefined();
  expect(Object.keys(await proxy.targets())).toEqual(["/services/late"]);
  expect(store.told().filter((what) => what.startsWith("proxy"))).toEqual([
    "proxy_down",
    "proxy_up",
    "proxy_down",
    "proxy_up",
  ]);
});

test("a deletion does not wait for a proxy that is known to be gone", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  let isGone = false;
  register(store, 2, await startTarget("target"));
  await startKeeper(proxy, store, { isProxyGone: () => isGone });
  await eventually(() => areProgrammed(store));

  await proxy.kill();
  isGone = true;
  store.delete("s-0");

  await eventually(() => store.named("s-0") === undefined);
  expect(store.named("s-1")).toBeDefined();
});

test("a wrong token blocks with few calls, and a right one heals", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  let isRefused = true;
  const front = await startFront(proxy, () => (isRefused ? 403 : undefined));
  register(store, 5, await startTarget("target"));
  const keeper = await startKeeper(proxy, store, { url: front.url });

  await eventually(() => store.route("s-0")?.state === "blocked");
  store.setExternal("another", "http://127.0.0.1:1");
  await eventually(() => store.route("another")?.state === "blocked");
  await delay(3_000);
  const calls = front.calls.length;
  await expect(keeper.reconcile({ reassert: false })).rejects.toMatchObject({ reason: "PROXY_UNAVAILABLE" });
  isRefused = false;
  const result = await keeper.reconcile({ reassert: false });

  expect(calls).toBe(1);
  expect(result).toEqual({ wanted: 6, put: 6, removed: 0, failed: 0 });
  expect(areProgrammed(store)).toBe(true);
  expect(store.told().filter((what) => what.endsWith("s-0"))).toEqual([
    "route_pending s-0",
    "route_blocked s-0",
    "route_programmed s-0",
  ]);
  expect(store.events.find(({ body }) => body.type === "route_blocked")?.body).toMatchObject({
    route: { reason: "PROXY_AUTH" },
  });
});

test("errors of the API for a while make the attempts rarer, and it converges once they are over", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  let isIll = true;
  const front = await startFront(proxy, () => (isIll ? 500 : undefined));
  register(store, 5, await startTarget("target"));
  await startKeeper(proxy, store, { url: front.url });

  await eventually(() => store.route("s-0")?.reason === "PROXY_ERROR");
  await eventually(() => front.calls.length >= 7);
  const gaps = front.calls.slice(1).map(({ atMs }, index) => atMs - (front.calls[index]?.atMs ?? 0));
  isIll = false;
  await eventually(() => areProgrammed(store), { timeoutMs: 6_000 });

  expect(gaps.at(-1)).toBeGreaterThan((gaps[0] ?? 0) * 4);
});

test("errors at one kind of call leave the proxy up and what is in place alone", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  let isIll = false;
  const front = await startFront(proxy, (method) => (isIll && method === "POST" ? 500 : undefined));
  const target = await startTarget("target");
  register(store, 2, target);
  await startKeeper(proxy, store, { url: front.url });
  await eventually(() => areProgrammed(store));

  isIll = true;
  store.setExternal("late", target);
  await eventually(() => store.route("late")?.reason === "PROXY_ERROR");
  await delay(2_000);
  const others = [store.route("s-0")?.state, store.route("late")?.state];
  isIll = false;
  await eventually(() => areProgrammed(store), { timeoutMs: 6_000 });

  expect(others).toEqual(["programmed", "pending"]);
  expect(store.told().filter((what) => what.startsWith("proxy"))).toEqual(["proxy_up"]);
});

test("an API that accepts and never answers is given up call by call, and then found well", async () => {
  const proxy = await ForeignProxy.create();
  const store = new LittleStore();
  const silent = await startSilent(proxy.apiPort);
  register(store, 50, await startTarget("target"));
  const startMs = performance.now();
  await startKeeper(proxy, store, { callTimeoutMs: 300 });

  await eventually(() => store.told().includes("proxy_down"));
  const downMs = performance.now() - startMs;
  await eventually(() => silent.connections() >= 4);
  silent.end();
  await proxy.run();
  await eventually(() => areProgrammed(store), { timeoutMs: 8_000 });

  expect(downMs).toBeLessThan(3_000);
  expect(silent.connections()).toBeLessThan(20);
});

test("a look that finds nothing to do writes nothing and leaves the times of last activity alone", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  const front = await startFront(proxy);
  register(store, 20, await startTarget("target"));
  const keeper = await startKeeper(proxy, store, { url: front.url, timing: { probeEveryMs: 50, observeEveryMs: 200 } });
  await eventually(() => areProgrammed(store));
  const [before, revision] = [await proxy.table(), (await store.snapshot()).revision];
  front.calls.length = 0;

  const result = await keeper.reconcile({ reassert: false });
  await eventually(() => front.calls.filter(({ path }) => path === "").length >= 5);

  expect(result).toEqual({ wanted: 20, put: 0, removed: 0, failed: 0 });
  expect(front.calls.filter(({ method }) => method !== "GET")).toEqual([]);
  expect(await proxy.table()).toEqual(before);
  expect((await store.snapshot()).revision).toBe(revision);
});

test("a look that finds the capture by doubled slashes heals it at once, and re-asserting heals what no look can find", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  const [ours, theirs] = [await startTarget("ours"), await startTarget("theirs")];
  store.setExternal("grader", ours);
  const keeper = await startKeeper(proxy, store);
  await eventually(() => isProgrammed(store, "grader"));

  await proxy.put("//services/grader", theirs);
  const captured = await proxy.visit("/services/grader/");
  const found = await keeper.reconcile({ reassert: false });
  const healed = await proxy.visit("/services/grader/");
  await proxy.put("//services/grader", theirs);
  await proxy.api("DELETE", "//services/grader");
  await keeper.reconcile({ reassert: false });
  await proxy.put("//services/grader", theirs);
  await proxy.api("DELETE", "//services/grader");
  const lost = await proxy.visit("/services/grader/");
  const unfound = await keeper.reconcile({ reassert: false });
  const reasserted = await keeper.reconcile({ reassert: true });

  expect([captured.text, healed.text]).toEqual(["theirs /services/grader/", "ours /services/grader/"]);
  expect([found.put, lost.status, unfound.put, reasserted.put]).toEqual([1, 404, 0, 1]);
  expect((await proxy.visit("/services/grader/")).text).toBe("ours /services/grader/");
});

test("what a reconciliation would do is told, and nothing is done", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  store.setExternal("grader", await startTarget("ours"));
  const keeper = await startKeeper(proxy, store);
  await eventually(() => isProgrammed(store, "grader"));
  const calm = await keeper.foresee({ reassert: false });
  const anew = await keeper.foresee({ reassert: true });

  await proxy.api("DELETE", "/services/grader");
  const foreseen = await keeper.foresee({ reassert: false });
  const still = await proxy.visit("/services/grader/");
  const done = await keeper.reconcile({ reassert: false });

  expect([calm.put, anew.put]).toEqual([0, 1]);
  expect(foreseen).toEqual({ wanted: 1, put: 1, removed: 0, failed: 0 });
  expect(still.status).toBe(404);
  expect(done).toEqual(foreseen);
});

test("everything is put again now and then without being asked", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  const front = await startFront(proxy);
  register(store, 5, await startTarget("target"));
  await startKeeper(proxy, store, { url: front.url, timing: { reassertEveryMs: 300 } });

  await eventually(() => areProgrammed(store));
  front.calls.length = 0;
  await eventually(() => front.calls.filter(({ method }) => method === "POST").length >= 10);

  expect(areProgrammed(store)).toBe(true);
});

test("an open websocket and a request that is under way survive the move of their route", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  let finish: () => void = () => {};
  const old = createServer((_, response) => {
    response.write("begun ");
    finish = () => response.end("ended");
  });
  old.on("upgrade", (_, socket) => {
    socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    socket.pipe(socket);
  });
  const [first, second] = [await listen(old), await startTarget("new")];
  store.setExternal("grader", first);
  await startKeeper(proxy, store);
  await eventually(() => isProgrammed(store, "grader"));
  const slow = proxy.visit("/services/grader/slow");
  const socket = connect(proxy.port, "127.0.0.1");
  atEnd(() => socket.destroy());
  let heard = "";
  socket.setEncoding("utf8").on("data", (chunk: string) => (heard += chunk));
  const keys = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13";
  socket.write(
    `GET /services/grader/ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n${keys}\r\n\r\n`,
  );
  await eventually(() => heard.includes("101"));

  store.setExternal("grader", second);
  await eventually(() => isProgrammed(store, "grader") && store.route("grader")?.target === second);
  const next = await proxy.visit("/services/grader/next");
  socket.write("still here");
  await eventually(() => heard.endsWith("still here"));
  finish();

  expect(next.text).toBe("new /services/grader/next");
  expect((await slow).text).toBe("begun ended");
});

test("no request fails while a route moves to and fro under load", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  const targets = [await startTarget("a"), await startTarget("b")];
  store.setExternal("grader", targets[0]);
  await startKeeper(proxy, store);
  await eventually(() => isProgrammed(store, "grader"));
  const statuses = new Set<number>();
  let isOver = false;
  const load = Array.from({ length: 4 }, async () => {
    while (!isOver) statuses.add((await proxy.visit("/services/grader/x")).status);
  });

  for (let move = 1; move <= 50; move += 1) {
    store.setExternal("grader", targets[move % 2]);
    await eventually(() => isProgrammed(store, "grader") && store.route("grader")?.generation === move + 1, {
      everyMs: 2,
    });
  }
  isOver = true;
  await Promise.all(load);

  expect([...statuses]).toEqual([200]);
});

test("the next keeper takes over what the last one left, and removes what was deleted meanwhile", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  const front = await startFront(proxy);
  register(store, 3, await startTarget("target"));
  const last = await startKeeper(proxy, store);
  await eventually(() => areProgrammed(store));
  await last.stop();
  await last.stop();
  store.delete("s-0");
  const told = store.events.length;

  await startKeeper(proxy, store, { url: front.url });
  await eventually(() => store.named("s-0") === undefined);

  expect(Object.keys(await proxy.targets())).toEqual(["/services/s-1", "/services/s-2"]);
  expect(front.calls.filter(({ method }) => method !== "GET")).toMatchObject([{ method: "DELETE" }]);
  expect(store.told(told)).toEqual(["route_removing s-0", "proxy_up", "route_removed s-0", "service_deleted s-0"]);
});

test("a service that is deleted right after it was registered leaves no route behind", async () => {
  const proxy = await ForeignProxy.start();
  const store = new LittleStore();
  store.commitMs = 20;
  const target = await startTarget("target");
  await startKeeper(proxy, store);
  await eventually(() => store.told().includes("proxy_up"));

  for (let pauseMs = 0; pauseMs <= 60; pauseMs += 3) {
    store.setExternal(`s-${pauseMs}`, target);
    await delay(pauseMs);
    store.delete(`s-${pauseMs}`);
  }
  store.setExternal("last", target);

  await eventually(() => isProgrammed(store, "last") && store.services.size === 1);
  await eventually(async () => Object.keys(await proxy.targets()).length === 1);
  expect(Object.keys(await proxy.targets())).toEqual(["/services/last"]);
});

test("stopping leaves the routes and waits for nothing that does not answer", async () => {
  const proxy = await ForeignProxy.create();
  const store = new LittleStore();
  await startSilent(proxy.apiPort);
  register(store, 3, "http://127.0.0.1:1");
  const keeper = keeperOf(proxy, store);
  await keeper.stop();
  const working = await startKeeper(proxy, store);
  const asked = working.reconcile({ reassert: true });
  const outcome = expect(asked).rejects.toMatchObject({ reason: "SERVER_DRAINING" });
  const startMs = performance.now();

  await working.stop();

  await outcome;
  expect(performance.now() - startMs).toBeLessThan(1_000);
});
