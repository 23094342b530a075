import fc from "fast-check";
import { expect, test } from "vitest";
import {
  type NumberedRoute,
  planRoutes,
  type RoutePlan,
  routeFor,
  type SeenRoute,
} from "../../src/domain/route-plan.ts";
import type { Service } from "../../src/domain/service.ts";
import { parseServiceSpec } from "../../src/domain/service-spec.ts";
import { blankStatus } from "../../src/domain/status.ts";

const everyone = { isReleased: () => true };
const nobody = { isReleased: () => false };

const names = fc.constantFrom("a", "b", "c", "d", "e", "f");

const wantedRoute = fc.record({
  name: names,
  generation: fc.integer({ min: 1, max: 3 }),
  port: fc.integer({ min: 1, max: 3 }),
});

const want = fc
  .uniqueArray(wantedRoute, { selector: ({ name }) => name })
  .map((routes) => routes.map(({ name, generation, port }) => numbered(name, generation, `http://h:${port}`)));

const have = fc
  .uniqueArray(fc.tuple(wantedRoute, fc.constantFrom("ours", "older service", "foreign")), {
    selector: ([{ name }]) => name,
  })
  .map((routes) =>
    routes.map(([{ name, generation, port }, whose]) => seen(name, generation, `http://h:${port}`, whose)),
  );

test("whatever a proxy has, carrying out the plan makes it as wanted and leaves nothing to plan", () => {
  fc.assert(
    fc.property(have, want, (before, wanted) => {
      const plan = planRoutes(before, wanted, everyone);
      const after = carriedOut(before, plan);

      const foreign = before.filter(({ mark }) => mark === undefined);
      const held = new Set(foreign.map(({ prefix }) => prefix));
      const ours = wanted.filter(({ prefix }) => !held.has(prefix)).map(asSeen);
      expect(sorted(after)).toEqual(sorted([...foreign, ...ours]));
      const again = planRoutes(after, wanted, everyone);
      expect([again.put, again.remove, again.withheld]).toEqual([[], [], []]);
      expect(plan.conflicts.map(({ prefix }) => prefix).sort()).toEqual(
        wanted
          .map(({ prefix }) => prefix)
          .filter((prefix) => held.has(prefix))
          .sort(),
      );
    }),
  );
});

test("whatever is wanted, no plan touches a route of somebody else", () => {
  fc.assert(
    fc.property(have, want, fc.boolean(), (before, wanted, doubt) => {
      const plan = planRoutes(before, wanted, { ...everyone, isDoubted: () => doubt });

      const foreign = new Set(before.filter(({ mark }) => mark === undefined).map(({ prefix }) => prefix));
      expect([...plan.put, ...plan.remove].filter(({ prefix }) => foreign.has(prefix))).toEqual([]);
    }),
  );
});

test("an empty read of what is wanted removes nothing", () => {
  fc.assert(
    fc.property(have, (before) => {
      const plan = planRoutes(before, [], nobody);

      expect(plan.remove).toEqual([]);
      expect(plan.withheld).toHaveLength(before.filter(({ mark }) => mark !== undefined).length);
    }),
  );
});

test("a truncated read removes a few leftovers but not a third of the routes", () => {
  const before = Array.from({ length: 100 }, (_, index) => seen(`s${index}`, 1, "http://h:1", "ours"));
  const wanted = (count: number): NumberedRoute[] =>
    Array.from({ length: count }, (_, index) => numbered(`s${index}`, 1, "http://h:1"));

  expect(planRoutes(before, wanted(70), nobody)).toMatchObject({ remove: { length: 30 }, withheld: [] });
  expect(planRoutes(before, wanted(69), nobody)).toMatchObject({ remove: [], withheld: { length: 31 } });
  expect(planRoutes(before, wanted(69), everyone)).toMatchObject({ remove: { length: 31 }, withheld: [] });
  expect(planRoutes(before, [], { isReleased: (uid) => uid === "uid-s7" }).remove).toMatchObject([
    { prefix: "/services/s7/" },
  ]);
});

test("doubt puts again what looks right", () => {
  const wanted = [numbered("a", 1, "http://h:1"), numbered("b", 1, "http://h:1")];

  const plan = planRoutes(wanted.map(asSeen), wanted, { ...nobody, isDoubted: ({ service }) => service === "b" });

  expect(plan.put.map(({ service }) => service)).toEqual(["b"]);
});

test("an external service wants its url until it is deleted", () => {
  const service = serviceWith({ url: "http://10.0.0.1:8080", type: "external" });

  expect(routeFor(service)).toEqual({
    service: "grader",
    serviceUid: "uid-grader",
    prefix: "/services/grader/",
    target: "http://10.0.0.1:8080",
  });
  expect(routeFor({ ...service, wish: "stopped" })).toBeDefined();
  expect(routeFor({ ...service, wish: "deleted" })).toBeUndefined();
  expect(routeFor(serviceWith({ url: undefined, type: "external" }))).toBeUndefined();
});

test("a managed service wants its route while it is published, with the port that was picked", () => {
  const picked = { url: "http://127.0.0.1:0", type: "managed", statusUrl: "http://127.0.0.1:4321" } as const;

  expect(routeFor(serviceWith({ ...picked, published: true }))?.target).toBe("http://127.0.0.1:4321");
  expect(routeFor(serviceWith({ ...picked, published: false }))).toBeUndefined();
  expect(routeFor(serviceWith({ ...picked, statusUrl: undefined, published: true }))).toBeUndefined();
  expect(routeFor(serviceWith({ url: "http://127.0.0.1:9", type: "managed", published: true }))?.target).toBe(
    "http://127.0.0.1:9",
  );
  expect(routeFor({ ...serviceWith({ ...picked, published: true }), wish: "deleted" })).toBeUndefined();
});

function numbered(service: string, generation: number, target: string): NumberedRoute {
  return { service, serviceUid: `uid-${service}`, prefix: `/services/${service}/`, target, generation };
}

function seen(service: string, generation: number, target: string, whose: string): SeenRoute {
  const serviceUid = whose === "ours" ? `uid-${service}` : `before-${service}`;
  const mark = whose === "foreign" ? undefined : { service, serviceUid, generation, epoch: 1 };
  return { prefix: `/services/${service}/`, target, mark };
}

function asSeen({ service, serviceUid, prefix, target, generation }: NumberedRoute): SeenRoute {
  return { prefix, target, mark: { service, serviceUid, generation, epoch: 1 } };
}

function carriedOut(before: readonly SeenRoute[], plan: RoutePlan): SeenRoute[] {
  const table = new Map(before.map((route) => [route.prefix, route]));
  for (const route of plan.put) table.set(route.prefix, asSeen(route));
  for (const { prefix } of plan.remove) table.delete(prefix);
  return [...table.values()];
}

function sorted(routes: readonly SeenRoute[]): SeenRoute[] {
  return routes.toSorted((a, b) => a.prefix.localeCompare(b.prefix));
}

function serviceWith(what: {
  url: string | undefined;
  type: "external" | "managed";
  statusUrl?: string | undefined;
  published?: boolean;
}): Service {
  const { url, type, statusUrl, published = false } = what;
  const never = new Date(0);
  const input = {
    url,
    kind: type === "external" ? ({ type } as const) : ({ type, command: ["true"] } as const),
  };
  return {
    name: "grader",
    uid: "uid-grader",
    spec: parseServiceSpec("grader", input, { forbidden: [], field: "spec" }).spec,
    wish: "running",
    generation: 1,
    resets: 0,
    version: 1,
    status: {
      ...blankStatus,
      state: "running",
      ready: true,
      observedGeneration: 1,
      url: statusUrl,
      published,
      transitionTime: never,
    },
    route: undefined,
    revision: 1n,
    createTime: never,
    updateTime: never,
    setName: "",
  };
}
