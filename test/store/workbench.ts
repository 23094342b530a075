import { randomUUID } from "node:crypto";
import pg from "pg";
import { pino } from "pino";
import { afterEach } from "vitest";
import type { Event, NewEvent } from "../../src/domain/event.ts";
import type { Service, ServiceSpec, Wish } from "../../src/domain/service.ts";
import { type ManagedSpecInput, parseServiceSpec } from "../../src/domain/service-spec.ts";
import type { Instance, ServiceStatus } from "../../src/domain/status.ts";
import type { EmbeddedConnection } from "../../src/store/embedded-postgres.ts";
import { createPool } from "../../src/store/postgres.ts";
import { Store } from "../../src/store/store.ts";
import type { NewToken } from "../../src/store/tokens.ts";
import type { Transaction } from "../../src/store/transaction.ts";
import { aStatus } from "../rpc/arbitrary.ts";
import { createTestDatabase, query } from "../support/postgres.ts";

const cleanups: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** Runs after the test, newest first. */
export function atEnd(cleanup: () => unknown): void {
  cleanups.push(cleanup);
}

export const silentLog = pino({ level: process.env["LOG_LEVEL"] ?? "silent" });

/** An empty database of the test's own. */
export async function emptyDatabase(): Promise<EmbeddedConnection> {
  const database = await createTestDatabase();
  atEnd(() => database.drop());
  return database.connection;
}

/** A started store on a database, which is by default a new one. */
export async function startStore(connection?: pg.PoolConfig): Promise<Store> {
  const store = new Store({ connection: { ...(connection ?? (await emptyDatabase())) }, node: "here", log: silentLog });
  atEnd(() => store.stop());
  await store.start();
  return store;
}

/** A pool as the store has one, for what is underneath it. */
export function openPool(connection: pg.PoolConfig): pg.Pool {
  const pool = createPool({ ...connection }, { onIdleError: () => undefined });
  atEnd(() => pool.end());
  return pool;
}

/** Reads rows on a connection of its own. */
export async function read<R extends pg.QueryResultRow>(
  connection: pg.ClientConfig,
  text: string,
  values: readonly unknown[] = [],
): Promise<R[]> {
  const client = new pg.Client({ ...connection });
  await client.connect();
  try {
    const { rows } = await client.query<R>(text, [...values]);
    return rows;
  } finally {
    await client.end();
  }
}

/** Ends the connections of a database that have an application name. */
export async function terminate(connection: EmbeddedConnection, applicationName: string): Promise<number> {
  const ended = await read(
    connection,
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1",
    [applicationName],
  );
  return ended.length;
}

/** Makes events look older than they are. */
export async function age(connection: EmbeddedConnection, upTo: bigint, days: number): Promise<void> {
  await query(connection, `UPDATE events SET time = time - interval '${days} days' WHERE revision <= ${upTo}`);
}

/** An event of the node. */
export function anOccurrence(message = ""): NewEvent {
  return { body: { type: "proxy_up" }, service: undefined, actor: "steward", requestId: undefined, message };
}

/** Appends `count` events in a transaction of their own; returns its revision. */
export async function append(store: Store, count = 1, message = ""): Promise<bigint> {
  const { revision } = await store.write(async (tx) => {
    for (let index = 0; index < count; index++) tx.append(anOccurrence(message));
  });
  return revision;
}

export function managedSpec(name: string, input: Partial<ManagedSpecInput> = {}): ServiceSpec {
  const kind = { command: ["sleep", "1000"], ...input, type: "managed" as const };
  return parseServiceSpec(name, { kind }, { forbidden: [], field: "service.spec" }).spec;
}

export interface ServiceWish {
  readonly uid?: string;
  readonly spec?: ServiceSpec;
  readonly status?: ServiceStatus;
  readonly wish?: Wish;
  readonly setName?: string;
  readonly apiTokenSealed?: Buffer;
}

/** Inserts a service in a transaction, with its event. */
export async function insert(tx: Transaction, name: string, service: ServiceWish = {}): Promise<string> {
  const { uid = randomUUID(), spec = managedSpec(name), status = aStatus(), wish = "running", setName = "" } = service;
  await tx.insertService({ name, uid, spec, status, wish, setName, apiTokenSealed: service.apiTokenSealed });
  const of = { name, uid, generation: 1 };
  tx.append({ body: { type: "service_created" }, service: of, actor: "operator", requestId: undefined, message: "" });
  return uid;
}

/** Registers a service. */
export async function create(store: Store, name: string, service: ServiceWish = {}): Promise<Service> {
  const { value: uid, services } = await store.write((tx) => insert(tx, name, service));
  const created = services.get(uid);
  if (created === undefined) throw new Error("not written");
  return created;
}

/** Notes that something happened to a service; returns the revision. */
export async function touch(store: Store, service: Service, message = ""): Promise<bigint> {
  const { revision } = await store.write(async (tx) => {
    tx.append({ ...anOccurrence(message), body: { type: "service_stopped" }, service });
  });
  return revision;
}

/** Removes a service of which nothing lives. */
export async function remove(store: Store, { name, uid }: Service): Promise<bigint> {
  const { revision } = await store.write(async (tx) => {
    await tx.updateService({ name, uid }, { wish: "deleted" });
    if (!(await tx.finishDeletion(uid))) throw new Error(`${name} is not gone`);
  });
  return revision;
}

export function anInstance(service: Service, instance: Partial<Instance> = {}): Instance {
  return {
    id: randomUUID(),
    service: service.name,
    serviceUid: service.uid,
    generation: service.generation,
    node: "here",
    role: "current",
    state: "created",
    process: undefined,
    pid: undefined,
    createTime: new Date("2026-01-02T03:04:05.678Z"),
    startTime: undefined,
    readyTime: undefined,
    exit: undefined,
    ...instance,
  };
}

export function aToken(token: Partial<NewToken> = {}): NewToken {
  const id = token.id ?? randomUUID();
  return {
    id,
    digest: Buffer.from(id),
    service: undefined,
    hint: "st_abc",
    scopes: ["inherit"],
    note: "",
    source: "issued",
    createdBy: "operator",
    createTime: new Date("2026-01-02T03:04:05.678Z"),
    expireTime: undefined,
    revokeTime: undefined,
    lastUsedTime: undefined,
    replacedBy: undefined,
    ...token,
  };
}

/** The whole log that is kept. */
export async function wholeLog(store: Store): Promise<Event[]> {
  const { oldest } = await store.events.bounds();
  return store.events.readAfter(oldest, 1_000_000);
}
