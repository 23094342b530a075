import { expect, test } from "vitest";
import { encodePageToken } from "../../src/domain/page.ts";
import type { Service } from "../../src/domain/service.ts";
import { call, external, Registry } from "../registry/workbench.ts";

const first = { pageSize: 3, pageToken: "", filter: "", names: undefined };

test.each([
  ["", (s: Service) => [s.name.toLowerCase()]],
  ["name desc", (s: Service) => [s.name.toLowerCase()]],
  ["create_time", (s: Service) => [s.createTime.toISOString()]],
  ["create_time desc", (s: Service) => [s.createTime.toISOString()]],
  ["update_time desc, name", (s: Service) => [s.updateTime.toISOString()]],
  ["state, create_time desc", (s: Service) => [s.status.state]],
  ["state desc", (s: Service) => [s.status.state]],
])("ordered by %j, the pages hold every service once, in order", async (orderBy, key) => {
  const { services } = await withServices();

  const seen = await allPages(services, { ...first, orderBy });

  const [whole, keys] = [
    await services.list({ ...first, orderBy, pageSize: 1_000 }),
    seen.map((each) => key(each).join()),
  ];
  expect(seen).toEqual(whole.services);
  expect(new Set(seen.map(({ uid }) => uid)).size).toBe(20);
  expect(keys).toEqual(/^\w+ desc/.test(orderBy) ? keys.toSorted().toReversed() : keys.toSorted());
});

test("an order in the other direction is the same the other way round, also of what is equal", async () => {
  const { services } = await withServices();
  const ordered = async (orderBy: string) =>
    (await services.list({ ...first, orderBy, pageSize: 1_000 })).services.map(({ name }) => name);

  for (const field of ["name", "create_time", "update_time", "state"])
    expect(await ordered(`${field} desc`)).toEqual((await ordered(field)).toReversed());
});

test.each(["", "create_time desc", "state, name desc"])(
  "ordered by %j, what is not touched is in the pages once, whatever else is created, changed and deleted meanwhile",
  async (orderBy) => {
    const { services } = await withServices();
    let turn = 0;
    const meanwhile = async () => {
      turn++;
      await services.create(call(), { name: `a-new-${turn}`, spec: external() });
      await services.create(call(), { name: `z-new-${turn}`, spec: external() });
      if (turn <= 5) await services.delete(call(), { name: `odd-${turn}`, etag: "", force: true, allowMissing: true });
      const change = { name: `even-${turn + 5}`, spec: { labels: { turn: String(turn) } }, etag: "", paths: undefined };
      if (turn <= 5) await services.update(call(), { ...change, allowMissing: false });
    };

    const seen = await allPages(services, { ...first, orderBy, filter: "NOT name : new" }, meanwhile);

    const names = seen.map(({ name }) => name);
    const untouched = [1, 2, 3, 4, 5].flatMap((number) => [`even-${number}`, `odd-${number + 5}`]);
    expect(names.filter((name) => untouched.includes(name)).toSorted()).toEqual(untouched.toSorted());
    expect(new Set(names).size).toBe(names.length);
  },
);

test("a page token is good for its filter and order only, however the order is written", async () => {
  const { services } = await withServices();
  const { nextPageToken: pageToken } = await services.list({ ...first, orderBy: "create_time desc" });
  const again = { ...first, pageToken };

  await services.list({ ...again, orderBy: " create_time  desc , name desc" });
  for (const other of [{ orderBy: "create_time" }, { orderBy: "create_time desc", filter: "admin = false" }])
    await expect(services.list({ ...again, ...other })).rejects.toMatchObject({ reason: "PAGE_TOKEN_INVALID" });
});

test.each(["", "name", "x name", "1", "1 a b", "99999999999999999999 a"])(
  "a page token that was made up to stand at %j is refused",
  async (place) => {
    const { services } = await Registry.start();
    const forged = encodePageToken(["services", "", "create_time, name"], place);

    await expect(services.list({ ...first, orderBy: "create_time", pageToken: forged })).rejects.toMatchObject({
      reason: "PAGE_TOKEN_INVALID",
    });
  },
);

test.each(["colour", "name up", "name,", "name, name desc", "name;"])("the order %j is refused", async (orderBy) => {
  const { services } = await Registry.start();

  await expect(services.list({ ...first, orderBy })).rejects.toMatchObject({
    code: "invalid_argument",
    violations: [{ field: "order_by" }],
  });
});

async function withServices(): Promise<Registry> {
  const registry = await Registry.start();
  const named = (prefix: string) => [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map((number) => `${prefix}-${number}`);
  // Ten of one transaction have one time; the states differ.
  await registry.services.apply(call(), {
    services: named("odd").map((name) => ({ name, spec: external() })),
    setName: "",
    prune: false,
  });
  for (const name of named("even")) await registry.services.create(call(), { name, spec: external() });
  await registry.rows(
    `UPDATE services SET status = status || '{"state": "running"}' WHERE name LIKE '%3' OR name LIKE '%8'`,
  );
  return registry;
}

async function allPages(
  services: Registry["services"],
  request: Parameters<Registry["services"]["list"]>[0],
  between: () => Promise<void> = async () => undefined,
): Promise<Service[]> {
  const seen: Service[] = [];
  for (let pageToken = ""; ; await between()) {
    const page = await services.list({ ...request, pageToken });
    seen.push(...page.services);
    pageToken = page.nextPageToken;
    if (pageToken === "") return seen;
  }
}
