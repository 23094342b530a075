import { pino } from "pino";
import { Registry } from "prom-client";
import { expect, test } from "vitest";
import { Store, type StoreOptions } from "../../src/store/store.ts";
import { eventually } from "../support/eventually.ts";
import { query } from "../support/postgres.ts";
import { append, atEnd, emptyDatabase, insert, read, terminate } from "./workbench.ts";

type Line = Readonly<Record<string, unknown>>;

async function startObserved(options: Partial<StoreOptions> = {}) {
  const connection = await emptyDatabase();
  const lines: Line[] = [];
  const registry = new Registry();
  const log = pino({ level: "debug" }, { write: (line: string) => lines.push(JSON.parse(line) as Line) });
  const store = new Store({ connection: { ...connection }, node: "here", log, registry, ...options });
  atEnd(() => store.stop());
  await store.start();
  const value = async (name: string, labels: Readonly<Record<string, string>> = {}) => {
    const { values = [] } = (await registry.getSingleMetric(name)?.get()) ?? {};
    const sample = values.find((each) => Object.entries(labels).every(([label, of]) => each.labels[label] === of));
    return Number(sample?.value);
  };
  return { connection, store, lines, registry, value };
}

test("transactions are counted by outcome, timed, and told from those that are tried out", async () => {
  const { store, value } = await startObserved();

  await append(store);
  await append(store);
  await store.write(async () => Promise.reject(new Error("no"))).catch(() => undefined);
  await store.write(async (tx) => insert(tx, "tried-out"), { dryRun: true });

  expect(await value("steward_store_transactions_total", { outcome: "committed" })).toBe(2);
  expect(await value("steward_store_transactions_total", { outcome: "failed" })).toBe(1);
  expect(await value("steward_store_transaction_seconds", { le: "+Inf" })).toBe(3);
});

test("connections that are lent, and who waits for one, are seen while it is so", async () => {
  const { store, value } = await startObserved({ connection: { ...(await emptyDatabase()), max: 2 } });
  const { promise: released, resolve: release } = Promise.withResolvers<void>();

  const writes = Array.from({ length: 5 }, () => store.write(async () => released));
  await eventually(async () => (await value("steward_store_waiting")) === 3);

  expect(await value("steward_store_connections_max")).toBe(2);
  expect(await value("steward_store_connections", { state: "in_use" })).toBe(2);
  release();
  await Promise.all(writes);
  await eventually(async () => (await value("steward_store_connections", { state: "in_use" })) === 0);
  expect(await value("steward_store_connections", { state: "idle" })).toBe(2);
  expect(await value("steward_store_waiting")).toBe(0);
});

test("a listener that was cut is not listening until it is connected again, which is counted", async () => {
  const { connection, store, value } = await startObserved();
  expect(await value("steward_store_listening")).toBe(1);
  expect(await value("steward_store_listener_reconnects_total")).toBe(0);

  await terminate(connection, "steward wake-ups");

  await eventually(async () => (await value("steward_store_listener_reconnects_total")) === 1);
  expect(await value("steward_store_listening")).toBe(1);
  await append(store);
  await eventually(async () => (await value("steward_store_notifications_total")) >= 1);
});

test("the newest and the oldest revision are those of the database", async () => {
  const { connection, store, value } = await startObserved();
  const revision = await append(store);
  await query(connection, "UPDATE store SET compacted = 1");

  expect(await value("steward_store_up")).toBe(1);
  expect(await value("steward_store_revision")).toBe(Number(revision));
  expect(await value("steward_store_oldest_revision")).toBe(1);
});

test("a database that does not answer is down, and what was known of it stays", async () => {
  const { connection, store, value } = await startObserved();
  const revision = await append(store);
  await value("steward_store_revision");

  await query(connection, "ALTER TABLE store RENAME TO hidden");

  expect(await value("steward_store_up")).toBe(0);
  expect(await value("steward_store_revision")).toBe(Number(revision));
  await query(connection, "ALTER TABLE hidden RENAME TO store");
  expect(await value("steward_store_up")).toBe(1);
});

test("a slow statement is told by its name or its first words and its time, never with values", async () => {
  const { store, lines, value } = await startObserved({ slowStatementMs: 0.001 });

  await store.write(async (tx) => insert(tx, "hunter2"));

  const slow = lines.filter(({ msg }) => msg === "slow statement");
  expect(slow.map(({ statement }) => statement)).toContain("append events");
  expect(slow.map(({ statement }) => statement)).toContain("COMMIT");
  for (const line of slow) {
    expect(line).toMatchObject({ level: 40, durationMs: expect.any(Number), omitted: 0 });
    expect(String(line["statement"]).split(" ").length).toBeLessThanOrEqual(8);
  }
  expect(JSON.stringify(lines)).not.toContain("hunter2");
  expect(await value("steward_store_slow_statements_total")).toBeGreaterThanOrEqual(slow.length);
});

test("of a thousand slow statements a few lines tell, all are counted, and 0 tells of none", async () => {
  const { store, lines, value } = await startObserved({ slowStatementMs: 0.001 });
  const quiet = await startObserved();

  for (const each of [store, quiet.store]) await Promise.all(Array.from({ length: 1_000 }, () => each.ping()));

  expect(await value("steward_store_slow_statements_total")).toBeGreaterThanOrEqual(1_000);
  const slow = lines.filter(({ msg }) => msg === "slow statement");
  expect(slow.length).toBeLessThan(100);
  expect(slow.map(({ statement }) => statement)).toContain("SELECT 1");
  expect(await quiet.value("steward_store_slow_statements_total")).toBe(0);
  expect(quiet.lines).toEqual([]);
});

test("a statement that waits for another's lock is slow", async () => {
  const { connection, store, lines } = await startObserved({ slowStatementMs: 150 });
  const { promise: released, resolve: release } = Promise.withResolvers<void>();
  const { promise: held, resolve: hold } = Promise.withResolvers<void>();
  const holder = store.write(async (tx) => {
    await insert(tx, "first");
    hold();
    await released;
  });
  await held;
  const blocked = store.write(async (tx) => insert(tx, "first")).catch((error: unknown) => error);
  await eventually(async () => {
    const [row] = await read<{ waits: boolean }>(
      connection,
      "SELECT count(*) > 0 AS waits FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND now() - query_start > interval '200 ms'",
    );
    return row?.waits;
  });
  release();
  await Promise.all([holder, blocked]);

  const slow = lines.filter(({ msg }) => msg === "slow statement");
  expect(slow.map(({ statement }) => statement)).toContain("insert service");
});
