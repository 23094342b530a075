import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { WaitCondition } from "../../gen/steward/v1/supervisor_pb.ts";
import { eventually } from "../support/eventually.ts";
import { type MetricsPage, readMetrics, valueOf } from "../support/prometheus.ts";
import { external, managed } from "./bad-requests.ts";
import { TestSteward } from "./harness.ts";
import { type Clients, clientsOf } from "./transports.ts";

let steward: TestSteward;
let admin: Clients;

beforeAll(async () => {
  steward = await TestSteward.start({ proxy: "bundled", flags: { "log-level": "debug", "slow-call": "0.001" } });
  admin = clientsOf("gRPC on the gRPC listener", steward.addresses, steward.adminToken);
});

afterAll(async () => {
  await steward?.[Symbol.asyncDispose]();
});

test("the documentation lists every metric that there is, with its type and what it tells, and no other", async () => {
  // The last ones to show are those of the routes, with the first look at the proxy.
  const page = await eventually(async () => {
    const read = await readMetrics(steward.addresses.connect);
    return valueOf(read, "steward_route_last_reconcile_timestamp_seconds") === undefined ? undefined : read;
  });
  const text = await readFile(new URL("../../docs/operations.md", import.meta.url), "utf8");

  const documented = [...text.matchAll(/^\| `(\w+)`(?: \(([\w, `]+)\))? \| (\w+) \| (.*) \|$/gm)].map(
    ([, name, labels, type, help]) => ({ name, labels: labels?.replaceAll("`", ""), type, help }),
  );

  const there = page.families.filter(({ name }) => !/^(process|nodejs)_/.test(name));
  const byName = (one: { name: string | undefined }, other: { name: string | undefined }) =>
    String(one.name) < String(other.name) ? -1 : 1;
  const told = there.map((family) => ({ ...family, labels: labelsOf(page, family.name) }));
  expect(documented.toSorted(byName)).toEqual(told.toSorted(byName));
});

test("names are as Prometheus wants them, and everything is explained", async () => {
  const { families, samples } = await readMetrics(steward.addresses.connect);

  for (const { name, type, help } of families.filter(({ name: each }) => each.startsWith("steward_"))) {
    expect(help).toMatch(/^[A-Z0-9].*\.$/);
    expect(name.endsWith("_total"), name).toBe(type === "counter");
    if (type === "histogram") expect(name).toMatch(/_seconds$/);
    expect(name).not.toMatch(/_(ms|millis|milliseconds|kb|mb)(_|$)/);
  }
  expect(new Set(samples.map(({ name, labels }) => JSON.stringify([name, labels]))).size).toBe(samples.length);
});

test("what happens shows: services, routes, events, writes, who watches and how far behind", async () => {
  const before = await readMetrics(steward.addresses.connect);
  const leaving = new AbortController();
  const watch = admin.supervisor.watchEvents({}, { signal: leaving.signal })[Symbol.asyncIterator]();
  await watch.next();
  const listening = watch.next();
  await admin.registry.create({ serviceId: "runs", service: { spec: managed({ command: ["sleep", "1000"] }) } });
  await admin.registry.create({ serviceId: "routed", service: { spec: external({ url: "http://127.0.0.1:9" }) } });
  await admin.supervisor.wait({ name: "runs", condition: WaitCondition.READY });
  await listening;

  const page = await eventually(async () => {
    const read = await readMetrics(steward.addresses.connect);
    return valueOf(read, "steward_routes", { state: "programmed" }) === 1 ? read : undefined;
  });
  const grown = (name: string, labels = {}) =>
    (valueOf(page, name, labels) ?? 0) - (valueOf(before, name, labels) ?? 0);

  expect(valueOf(page, "steward_services", { state: "running" })).toBe(1);
  expect(valueOf(page, "steward_proxy_up")).toBe(1);
  expect(grown("steward_route_operations_total", { operation: "put", outcome: "done" })).toBeGreaterThanOrEqual(1);
  expect(grown("steward_feed_events_total", { type: "service_created" })).toBe(2);
  expect(grown("steward_feed_events_total", { type: "instance_started" })).toBe(1);
  expect(grown("steward_store_transactions_total", { outcome: "committed" })).toBeGreaterThanOrEqual(3);
  expect(valueOf(page, "steward_store_revision")).toBe(valueOf(page, "steward_feed_revision"));
  for (const follower of ["watch_events", "supervisor", "routes", "tokens"])
    expect(valueOf(page, "steward_feed_followers", { follower }), follower).toBe(1);
  expect(grown("steward_feed_delivered_events_total", { follower: "watch_events" })).toBeGreaterThanOrEqual(1);
  expect(valueOf(page, "steward_rpc_open_calls", { grpc_method: "WatchEvents" })).toBe(1);
  leaving.abort();
  await eventually(async () => {
    const after = await readMetrics(steward.addresses.connect);
    return valueOf(after, "steward_feed_followers", { follower: "watch_events" }) === 0;
  });
});

test("a call that fails counts under its reason", async () => {
  const reason = "SERVICE_NOT_FOUND";
  const counted = async () =>
    valueOf(await readMetrics(steward.addresses.connect), "steward_rpc_errors_total", { reason });
  const before = await counted();

  await admin.registry.get({ name: "nobody" }).catch(() => undefined);

  await eventually(async () => (await counted()) === (before ?? Number.NaN) + 1);
});

test("every line about a call has its id, and a wait is not a slow call", async () => {
  const id = "order-of-4711";
  await admin.supervisor
    .wait({ name: "runs", condition: WaitCondition.STOPPED, timeout: { nanos: 50_000_000 } }, ofCall(`${id}-wait`))
    .catch(() => undefined);
  await admin.registry.create(
    { serviceId: "named", service: { spec: external({ url: "http://127.0.0.1:9" }) } },
    ofCall(id),
  );

  const about = async (requestId: string) => {
    const lines = steward.log.split("\n").flatMap((line) => (line.includes(requestId) ? [JSON.parse(line)] : []));
    return lines as Record<string, unknown>[];
  };
  await eventually(async () => (await about(id)).some(({ msg }) => msg === "slow call"));
  const lines = (await about(id)).filter(({ requestId }) => requestId === id);
  expect(lines.find(({ msg }) => msg === "call")).toMatchObject({
    method: "/steward.v1.ServiceRegistry/Create",
    code: "OK",
    principal: "operator",
    peer: expect.stringMatching(/^127\.0\.0\.1:/),
    durationMs: expect.any(Number),
  });
  const waited = await about(`${id}-wait`);
  expect(waited.map(({ msg }) => msg)).toEqual(["call"]);
  const { events } = await admin.supervisor.listEvents({ filter: `request_id = "${id}"` });
  expect(events.map(({ requestId }) => requestId)).toEqual([id]);
});

function ofCall(id: string) {
  return { headers: { "x-request-id": id } };
}

/** The labels of a metric, as its samples have them; undefined without any. */
function labelsOf({ samples }: MetricsPage, family: string): string | undefined {
  const own = samples.filter(({ name }) => name.replace(/_(bucket|sum|count)$/, "") === family || name === family);
  const names = new Set(own.flatMap(({ labels }) => Object.keys(labels)).filter((label) => label !== "le"));
  return names.size === 0 ? undefined : [...names].join(", ");
}
