import { describe, expect, test } from "vitest";
import type { NumberedRoute, OwnedRoute } from "../../src/domain/route-plan.ts";
import type { ProxyDriver, RouteOutcome } from "../../src/proxy/driver.ts";
import { anySignal, atEnd } from "./workbench.ts";

/** A proxy under test, with a hand that is not ours. Prefixes end with a slash. */
export interface ProxyBench {
  driver(options: { owner: string; epoch?: number; token?: "right" | "wrong" }): ProxyDriver;
  /** What the proxy has, whoever put it there, without what the driver keeps for itself. */
  targets(): Promise<Record<string, string>>;
  putForeign(prefix: string, target: string): Promise<void>;
  removeAny(prefix: string): Promise<void>;
  restart(): Promise<void>;
  /** Whether it asks for a token at all. */
  readonly hasTokens: boolean;
}

/** What every driver promises. A new one passes this as it is. */
export function proxyConformance(name: string, start: () => Promise<ProxyBench>): void {
  const open = async (): Promise<{ bench: ProxyBench; driver: ProxyDriver }> => {
    const bench = await start();
    return { bench, driver: opened(bench, { owner: "ours" }) };
  };

  describe(`${name} as a driver`, () => {
    test("puts routes and shows them with their marks", async () => {
      const { bench, driver } = await open();

      const outcomes = await put(driver, [route("one", 1), route("two", 7)]);

      expect(outcomes.map((outcome) => [outcome.operation, outcome.serviceUid, outcome.ok])).toEqual([
        ["put", "uid-one", true],
        ["put", "uid-two", true],
      ]);
      expect(await bench.targets()).toEqual({
        "/services/one/": "http://127.0.0.1:1001",
        "/services/two/": "http://127.0.0.1:1007",
      });
      const { routes } = await driver.observe(anySignal);
      const mark = { service: "two", serviceUid: "uid-two", generation: 7, epoch: 1 };
      expect(routes).toContainEqual({ prefix: "/services/two/", target: "http://127.0.0.1:1007", mark });
    });

    test("changes a route by putting its next generation, as often as one likes", async () => {
      const { bench, driver } = await open();

      for (const generation of [1, 2, 2, 3]) await put(driver, [route("one", generation)]);

      expect(await bench.targets()).toEqual({ "/services/one/": "http://127.0.0.1:1003" });
      expect((await driver.observe(anySignal)).routes.map(({ mark }) => mark?.generation)).toEqual([3]);
    });

    test("removes its routes, and finds nothing wrong with one that is gone already", async () => {
      const { bench, driver } = await open();
      await put(driver, [route("one", 1), route("two", 1)]);

      const first = await remove(driver, [owned("one")]);
      const again = await remove(driver, [owned("one")]);

      expect([...first, ...again].map(({ ok }) => ok)).toEqual([true, true]);
      expect(Object.keys(await bench.targets())).toEqual(["/services/two/"]);
    });

    test("leaves others' routes beside, above and below ours and the default route as they are", async () => {
      const { bench, driver } = await open();
      const foreign = {
        "/": "http://h:1",
        "/services/": "http://h:2",
        "/services/one/x/": "http://h:3",
        "/a/": "http://h:4",
      };
      for (const [prefix, target] of Object.entries(foreign)) await bench.putForeign(prefix, target);

      await put(driver, [route("one", 1)]);
      await remove(driver, [owned("one")]);

      expect(await bench.targets()).toEqual(foreign);
      const { routes } = await driver.observe(anySignal);
      expect(routes.every(({ mark }) => mark === undefined)).toBe(true);
    });

    test("looks before it puts where it was told that its view is old, and yields to somebody else's route", async () => {
      const { bench, driver } = await open();
      await bench.putForeign("/services/one/", "http://h:1");

      const outcomes = await put(driver, [route("one", 1), route("two", 1)], true);

      expect(outcomes).toMatchObject([{ ok: false, kind: "conflict", reason: "FOREIGN_ROUTE" }, { ok: true }]);
      expect((await bench.targets())["/services/one/"]).toBe("http://h:1");
    });

    test("does not remove a prefix that somebody else or a newer service holds by now", async () => {
      const { bench, driver } = await open();
      await bench.putForeign("/services/one/", "http://h:1");
      await put(driver, [{ ...route("two", 1), serviceUid: "another" }]);

      const outcomes = await remove(driver, [owned("one"), owned("two")], true);

      expect(outcomes.map(({ ok }) => ok)).toEqual([true, true]);
      expect(Object.keys(await bench.targets()).sort()).toEqual(["/services/one/", "/services/two/"]);
    });

    test("takes routes with another owner's mark for somebody else's", async () => {
      const { bench, driver } = await open();
      const other = opened(bench, { owner: "theirs" });
      await put(other, [route("one", 1)]);

      const outcomes = await put(driver, [route("one", 2)], true);

      expect(outcomes).toMatchObject([{ ok: false, kind: "conflict" }]);
      const form = { prefix: "/services/one/", target: "http://127.0.0.1:1001" };
      const mark = { service: "one", serviceUid: "uid-one", generation: 1, epoch: 1 };
      expect((await driver.observe(anySignal)).routes).toContainEqual({ ...form, mark: undefined });
      expect((await other.observe(anySignal)).routes).toContainEqual({ ...form, mark });
    });

    test("shows a route of ours that was changed by hand as it is now", async () => {
      const { bench, driver } = await open();
      await put(driver, [route("one", 1)]);

      await bench.putForeign("/services/one/", "http://h:1");

      expect((await driver.observe(anySignal)).routes).toEqual([
        { prefix: "/services/one/", target: "http://h:1", mark: undefined },
      ]);
    });

    test("keeps its boot id over changes and has another one, and no routes, after a restart", async () => {
      const { bench, driver } = await open();
      const first = await driver.observe(anySignal);
      await put(driver, [route("one", 1)]);
      const second = await driver.probe(anySignal);

      await bench.restart();

      const probed = await driver.probe(anySignal);
      const observed = await driver.observe(anySignal);
      expect(first.bootId).toBeTypeOf("string");
      expect(second.bootId).toBe(first.bootId);
      expect(probed.bootId).not.toBe(first.bootId);
      expect(observed.bootId).not.toBe(first.bootId);
      expect(observed.routes).toEqual([]);
    });

    test("puts and removes a thousand routes in one call", async () => {
      const { bench, driver } = await open();
      const names = Array.from({ length: 1_000 }, (_, index) => `s-${index}`);

      const puts = await put(
        driver,
        names.map((each) => route(each, 1)),
      );
      const count = Object.keys(await bench.targets()).length;
      const removals = await remove(driver, names.map(owned));

      expect([...puts, ...removals].filter(({ ok }) => !ok)).toEqual([]);
      expect(count).toBe(1_000);
      expect(await bench.targets()).toEqual({});
    });

    test("fails with PROXY_AUTH when the token is wrong, whatever is asked", async (context) => {
      const bench = await start();
      if (!bench.hasTokens) return context.skip();
      const driver = opened(bench, { owner: "ours", token: "wrong" });

      const outcomes = await put(driver, [route("one", 1), route("two", 1)]);

      expect(outcomes).toMatchObject([
        { ok: false, reason: "PROXY_AUTH" },
        { ok: false, reason: "PROXY_AUTH" },
      ]);
      await expect(driver.probe(anySignal)).rejects.toMatchObject({ reason: "PROXY_AUTH" });
      await expect(driver.observe(anySignal)).rejects.toMatchObject({ reason: "PROXY_AUTH" });
    });

    test("does nothing more once the signal is aborted", async () => {
      const { bench, driver } = await open();

      const given = AbortSignal.abort();

      await expect(driver.apply({ put: [route("one", 1)], remove: [], lookFirst: false }, given)).rejects.toThrow();
      expect(await bench.targets()).toEqual({});
    });
  });
}

function opened(bench: ProxyBench, options: Parameters<ProxyBench["driver"]>[0]): ProxyDriver {
  const driver = bench.driver(options);
  atEnd(() => driver.close());
  return driver;
}

export function route(service: string, generation: number): NumberedRoute {
  const target = `http://127.0.0.1:${1_000 + generation}`;
  return { service, serviceUid: `uid-${service}`, prefix: `/services/${service}/`, target, generation };
}

export function owned(service: string): OwnedRoute {
  return { prefix: `/services/${service}/`, mark: { service, serviceUid: `uid-${service}`, generation: 1, epoch: 1 } };
}

function put(
  driver: ProxyDriver,
  routes: readonly NumberedRoute[],
  lookFirst = false,
): Promise<readonly RouteOutcome[]> {
  return driver.apply({ put: routes, remove: [], lookFirst }, anySignal);
}

function remove(
  driver: ProxyDriver,
  routes: readonly OwnedRoute[],
  lookFirst = false,
): Promise<readonly RouteOutcome[]> {
  return driver.apply({ put: [], remove: routes, lookFirst }, anySignal);
}
