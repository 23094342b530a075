import { createServer } from "node:http";
import fc from "fast-check";
import { expect, test } from "vitest";
import { systemClock } from "../../src/domain/clock.ts";
import { ConfigurableHttpProxy } from "../../src/proxy/configurable-http-proxy.ts";
import { owned, proxyConformance, route } from "./conformance.ts";
import { anySignal, atEnd, ForeignProxy, listen, startFront, startSilent, startTarget } from "./workbench.ts";

proxyConformance("configurable-http-proxy", async () => {
  const proxy = await ForeignProxy.start();
  return {
    hasTokens: true,
    driver: ({ owner, epoch = 1, token }) =>
      new ConfigurableHttpProxy({
        url: proxy.apiUrl,
        token: token === "wrong" ? "wrong" : proxy.token,
        clock: systemClock,
        owner,
        epoch,
      }),
    targets: async () => {
      const targets = Object.entries(await proxy.targets());
      return Object.fromEntries(targets.map(([path, target]) => [path.endsWith("/") ? path : `${path}/`, target]));
    },
    putForeign: (prefix, target) => proxy.put(prefix, target),
    removeAny: async (prefix) => void (await proxy.api("DELETE", prefix)),
    restart: async () => {
      await proxy.kill();
      await proxy.run();
    },
  };
});

function driverOf(proxy: ForeignProxy, more: { url?: string; callTimeoutMs?: number } = {}): ConfigurableHttpProxy {
  const options = { url: proxy.apiUrl, token: proxy.token, clock: systemClock, owner: "ours", epoch: 1, ...more };
  const driver = new ConfigurableHttpProxy(options);
  atEnd(() => driver.close());
  return driver;
}

test("refuses, without a call, every prefix and target that the proxy would understand as something else", async () => {
  const calls: string[] = [];
  const url = await listen(createServer((incoming, response) => response.end(void calls.push(incoming.url ?? ""))));
  const driver = new ConfigurableHttpProxy({ url, token: "t", clock: systemClock, owner: "ours", epoch: 1 });
  atEnd(() => driver.close());
  const prefixes = [
    "/",
    "",
    "//",
    "/services//x/",
    "/services/../",
    "/services/./",
    "/services/%2e/",
    "/services/é/",
    "/services/a b/",
  ];
  const worse = [
    "/services/__proto__/",
    "/services/constructor/",
    "/services/x",
    "services/x/",
    "/services/x?y/",
    "/services/x\n/",
  ];
  const targets = [
    "",
    "ftp://h",
    "h:1",
    "http://u@h:1",
    "http://h:1/",
    "http://h:1/base",
    "http://h:1?q",
    "http://h:1#f",
    "not a url",
  ];
  const put = [
    ...[...prefixes, ...worse].map((prefix) => ({ ...route("x", 1), prefix })),
    ...targets.map((target) => ({ ...route("x", 1), target })),
  ];
  const remove = [...prefixes, ...worse].map((prefix) => ({ ...owned("x"), prefix }));

  const outcomes = await driver.apply({ put, remove, lookFirst: true }, anySignal);

  expect(outcomes.filter((outcome) => outcome.ok || outcome.kind !== "rejected")).toEqual([]);
  expect(outcomes).toHaveLength(put.length + remove.length);
  expect(calls).toEqual([]);
});

test("whatever the prefix, only plain paths leave for the proxy", async () => {
  const calls: string[] = [];
  const server = createServer((incoming, response) => {
    calls.push(incoming.url ?? "");
    response.writeHead(201).end();
  });
  const driver = new ConfigurableHttpProxy({
    url: await listen(server),
    token: "t",
    clock: systemClock,
    owner: "o",
    epoch: 1,
  });
  atEnd(() => driver.close());

  await fc.assert(
    fc.asyncProperty(fc.array(fc.string({ unit: "binary", maxLength: 12 }), { maxLength: 4 }), async (segments) => {
      const prefix = `/${segments.join("/")}/`;
      await driver.apply({ put: [{ ...route("x", 1), prefix }], remove: [], lookFirst: false }, anySignal);
      expect(calls.splice(0).filter((path) => !/^\/api\/routes(\/[A-Za-z0-9][A-Za-z0-9._-]*)+$/.test(path))).toEqual(
        [],
      );
    }),
    { numRuns: 500 },
  );
});

test("gives up a call that the proxy accepts and never answers, and then the rest", async () => {
  const { url, connections } = await startSilent();
  const driver = new ConfigurableHttpProxy({
    url,
    token: "t",
    clock: systemClock,
    owner: "o",
    epoch: 1,
    callTimeoutMs: 100,
  });
  atEnd(() => driver.close());
  const startMs = performance.now();

  const outcomes = await driver.apply(
    { put: Array.from({ length: 200 }, (_, index) => route(`s${index}`, 1)), remove: [owned("x")], lookFirst: false },
    anySignal,
  );
  await expect(driver.probe(anySignal)).rejects.toMatchObject({ reason: "PROXY_UNREACHABLE" });

  expect(outcomes.every((outcome) => !outcome.ok && outcome.kind === "transient")).toBe(true);
  expect(performance.now() - startMs).toBeLessThan(3_000);
  expect(connections()).toBeLessThanOrEqual(21);
});

test("after a lost answer it looks whether the proxy has done it before it does it again", async () => {
  const proxy = await ForeignProxy.start();
  let lost = 1;
  const { url, calls } = await startFront(proxy, (method) => (method === "POST" && lost-- > 0 ? "lose" : undefined));
  const driver = driverOf(proxy, { url });

  const outcomes = await driver.apply({ put: [route("one", 1)], remove: [], lookFirst: false }, anySignal);

  expect(outcomes).toMatchObject([{ ok: true }]);
  expect(calls.map(({ method }) => method)).toEqual(["POST", "GET"]);
});

test("tells what is wrong with an API that cannot be reached or is something else", async () => {
  const proxy = await ForeignProxy.create();
  const notFound = await listen(createServer((_, response) => response.writeHead(404).end()));
  const page = await listen(createServer((_, response) => response.end("<html>")));

  const look = (url: string): Promise<unknown> => driverOf(proxy, { url }).observe(anySignal);

  await expect(look(proxy.apiUrl)).rejects.toMatchObject({ reason: "PROXY_UNREACHABLE" });
  await expect(look("unix:/nowhere/at/all")).rejects.toMatchObject({ reason: "PROXY_UNREACHABLE" });
  await expect(look(notFound)).rejects.toMatchObject({ reason: "PROXY_ERROR" });
  await expect(look(page)).rejects.toMatchObject({ reason: "PROXY_ERROR" });
  await expect(look(notFound.replace("http:", "https:"))).rejects.toMatchObject({
    reason: "PROXY_TLS",
  });
  expect(() => driverOf(proxy, { url: "ftp://h" })).toThrow(TypeError);
});

test("notices a spelling with doubled slashes that captures a route of ours, and each change of it", async () => {
  const proxy = await ForeignProxy.start();
  const [ours, theirs] = [await startTarget("ours"), await startTarget("theirs")];
  const driver = driverOf(proxy);
  const change = { put: [{ ...route("one", 1), target: ours }], remove: [], lookFirst: false };
  await driver.apply(change, anySignal);

  await proxy.put("//services/one", theirs);
  const first = await driver.observe(anySignal);
  const hijacked = await proxy.visit("/services/one/x");
  await driver.apply(change, anySignal);
  const healed = await proxy.visit("/services/one/x");
  const second = await driver.observe(anySignal);
  await proxy.put("//services/one", theirs);
  const third = await driver.observe(anySignal);

  expect([hijacked.text, healed.text]).toEqual(["theirs /services/one/x", "ours /services/one/x"]);
  expect([...first.shadows.keys()]).toEqual(["/services/one/"]);
  expect(second.shadows).toEqual(first.shadows);
  expect(third.shadows).not.toEqual(first.shadows);
});

test("sends nobody anywhere from its sentinel and never uses the key of a hub", async () => {
  const proxy = await ForeignProxy.start();
  const driver = driverOf(proxy);
  await driver.observe(anySignal);
  await driver.apply({ put: [route("one", 1)], remove: [], lookFirst: false }, anySignal);

  const table = await proxy.table();

  expect(Object.keys(table).sort()).toEqual(["/.steward/ours", "/services/one"]);
  expect(Object.values(table).some((entry) => "jupyterhub" in entry)).toBe(false);
  expect((await proxy.visit("/.steward/ours/x")).status).toBe(503);
});
