import { expect, test } from "vitest";
import { type WakeupOptions, Wakeups } from "../../src/store/wakeups.ts";
import { eventually } from "../support/eventually.ts";
import { PrivatePostgres, query } from "../support/postgres.ts";
import { PostgresWire } from "../support/postgres-wire.ts";
import { append, atEnd, emptyDatabase, read, silentLog, startStore, terminate } from "./workbench.ts";

const never = 2_000_000_000;

test("each append wakes every listener, on this server and on others, until it has enough", async () => {
  const connection = await emptyDatabase();
  const [store, another] = [await startStore(connection), await startStore(connection)];
  const [here, there] = [await startWakeups({ connection }), await startWakeups({ connection })];

  const both = [here.woken(), there.woken()];
  await append(store);
  await Promise.all(both);
  here.leave();
  const calls = here.calls();
  const again = there.woken();
  await append(another);
  await again;

  expect(here.calls()).toBe(calls);
});

test("a listener whose connection is ended connects again, listens again and looks again", async () => {
  const connection = await emptyDatabase();
  const store = await startStore(connection);
  const wakeups = await startWakeups({ connection, application: "listener of the test" });

  for (let round = 0; round < 3; round++) {
    expect(await terminate(connection, "listener of the test")).toBe(1);
    // Nobody may be listening at this moment: the look after listening again finds it.
    const awake = wakeups.woken();
    await append(store);
    await awake;
    await eventually(async () => (await listeners(connection, "listener of the test")) === 1);
  }
});

test("a notification that never came is made up for by the poll", async () => {
  const connection = await emptyDatabase();
  const store = await startStore(connection);
  const wakeups = await startWakeups({ connection, pollMs: 50, application: "deaf" });
  await query(connection, "ALTER FUNCTION append_events(jsonb, uuid[], text) RENAME TO append_loudly");
  await query(
    connection,
    `CREATE FUNCTION append_events(happened jsonb, changed uuid[], at_node text)
     RETURNS TABLE (revision bigint, uid uuid, image jsonb) LANGUAGE sql AS $$
       UPDATE store SET head = head + 1;
       INSERT INTO events (revision, index, time, node, actor, message, body)
         SELECT head, 0, now(), at_node, 'steward', 'silent', '{"type": "proxy_up"}' FROM store;
       SELECT head, NULL::uuid, NULL::jsonb FROM store
     $$`,
  );

  const awake = wakeups.woken();
  const revision = await append(store);
  await awake;

  expect((await store.events.readAfter(revision - 1n, 1))[0]?.message).toBe("silent");
});

test("a connection that is half open is found out and replaced", async () => {
  const connection = await emptyDatabase();
  const store = await startStore(connection);
  const wire = await PostgresWire.to(connection);
  atEnd(() => wire.close());
  const wakeups = await startWakeups({
    connection: { ...wire.connection, query_timeout: 100 },
    heartbeatMs: 20,
    application: "half open",
  });

  wire.freeze();
  const awake = wakeups.woken();
  await append(store);
  await awake;

  const again = wakeups.woken();
  await append(store);
  await again;
});

test("a database that is away at the start is waited for; the start does not wait", async () => {
  const postgres = await PrivatePostgres.start();
  atEnd(() => postgres.dispose());
  const store = await startStore(postgres.connection);
  const connection = { ...postgres.connection };
  await postgres.stop();

  const wakeups = await startWakeups({ connection });
  const awake = wakeups.woken();
  await postgres.start();
  await awake;

  const again = wakeups.woken();
  await eventually(() => append(store));
  await again;
});

test("stopping ends the connection, the poll and the waiting, whenever it comes", async () => {
  const connection = await emptyDatabase();
  const options = { connection: { ...connection, application_name: "stopped" }, log: silentLog, pollMs: 1 };
  const [unstarted, starting, started] = [new Wakeups(options), new Wakeups(options), new Wakeups(options)];
  let calls = 0;
  started.onAppended(() => calls++);

  await unstarted.stop();
  await unstarted.start();
  await Promise.all([starting.start(), starting.stop()]);
  await started.start();
  await started.stop();
  await started.stop();
  const afterStop = calls;

  await eventually(async () => (await listeners(connection, "stopped")) === 0);
  expect(calls).toBe(afterStop);
});

/** Started wake-ups that nobody polls, unless the test asks for it. */
async function startWakeups(
  o: Partial<WakeupOptions> & { application?: string; connection: WakeupOptions["connection"] },
) {
  const { application = "wake-ups of the test", connection, ...options } = o;
  const wakeups = new Wakeups({
    pollMs: never,
    heartbeatMs: never,
    log: silentLog,
    ...options,
    connection: { ...connection, application_name: application },
  });
  atEnd(() => wakeups.stop());
  let calls = 0;
  let next = Promise.withResolvers<void>();
  const leave = wakeups.onAppended(() => {
    calls++;
    next.resolve();
    next = Promise.withResolvers();
  });
  await wakeups.start();
  return {
    leave,
    calls: () => calls,
    /** Resolves at the next call. */
    woken: () => next.promise,
  };
}

async function listeners(connection: WakeupOptions["connection"], application: string): Promise<number> {
  const rows = await read(
    connection,
    "SELECT FROM pg_stat_activity WHERE application_name = $1 AND query = 'LISTEN steward'",
    [application],
  );
  return rows.length;
}
