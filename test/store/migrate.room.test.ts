import { readdir, readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import type { Probe, ProbeAction } from "../../src/domain/probe.ts";
import type { ManagedSpec, Service } from "../../src/domain/service.ts";
import { blankStatus, type Instance } from "../../src/domain/status.ts";
import type { EmbeddedConnection } from "../../src/store/embedded-postgres.ts";
import { migrate } from "../../src/store/migrate.ts";
import { Store } from "../../src/store/store.ts";
import { PrivatePostgres, query } from "../support/postgres.ts";
import { anOccurrence, atEnd, create, emptyDatabase, read, remove, silentLog, startStore } from "./workbench.ts";

const steps = new URL("../../src/store/migrations/", import.meta.url);

/** For each released step the schema as it was then, with what a server had written. A new step brings a file of its own; none is ever edited. */
const released = new URL("../fixtures/released-schemas/", import.meta.url);
const releases = (await readdir(released)).toSorted();

test("every step has a database of its release to be upgraded from", async () => {
  expect(releases).toEqual((await readdir(steps)).toSorted());
});

test.for(releases)("a database of %s is upgraded, and everything in it is as it was", async (release) => {
  const connection = await databaseOf(release);
  const { grader, wiki, instances } = release === "0001_initial.sql" ? first : later;

  const store = await startStore(connection);

  const { services, revision } = await store.services.snapshot();
  expect(store.storeUid).toBe("11111111-0000-4000-8000-000000000000");
  expect([revision, await store.events.bounds()]).toEqual([6n, { head: 6n, oldest: 1n }]);
  expect(services).toEqual([grader, wiki]);
  expect(await store.services.sealedApiToken(grader.uid)).toEqual(Buffer.from([0, 255]));
  expect(await store.routes.page({ afterService: undefined, limit: 10 })).toEqual([grader.route]);
  expect(await store.instances.page({ serviceUid: grader.uid, liveOnly: false, after: undefined, limit: 10 })).toEqual(
    instances,
  );
  const events = await store.events.readAfter(1n, 100);
  expect(events.map(({ body }) => body)).toEqual([
    { type: "server_started" },
    { type: "instance_exited", instanceId: "bbbbbbbb-0000-4000-8000-000000000001", pid: 4711, exit: killed },
    { type: "restart_scheduled", attempt: 1, nextStartTime: at("2026-01-02T03:04:05.100Z") },
    { type: "service_deleted" },
    { type: "wish_changed", wish: "deleted" },
    { type: "route_programmed", route: grader.route },
  ]);
  expect(events.map(({ after }) => after?.name)).toEqual([undefined, "Grader", "Grader", "gone", "wiki", "Grader"]);
  expect(events.slice(-2).map(({ after }) => after)).toEqual([wiki, grader]);
  expect(events[4]).toMatchObject({ actor: "operator", requestId: "dddddddd-0000-4000-8000-000000000001" });
});

test.for(releases)("tokens and remembered answers of %s are good after the upgrade", async (release) => {
  const store = await startStore(await databaseOf(release));

  const tokens = await store.tokens.page({ serviceUid: undefined, showEnded: true, after: undefined, limit: 10 });
  const { value: remembered } = await store.write((tx) =>
    tx.claimRequest("operator", "Delete", "dddddddd-0000-4000-8000-000000000001", "hash", new Date()),
  );

  expect(remembered).toEqual({ hash: "hash", response: Buffer.from([0, 255]) });
  expect(tokens).toMatchObject([
    {
      id: "cccccccc-0000-4000-8000-000000000003",
      scopes: ["read:services", "read:events!service=wiki"],
      expireTime: at("2100-01-01T00:00:00Z"),
      revokeTime: at("2026-01-04T00:00:00Z"),
      replacedBy: "cccccccc-0000-4000-8000-000000000001",
    },
    {
      id: "cccccccc-0000-4000-8000-000000000002",
      source: "instance",
      service: { name: "Grader", uid: first.grader.uid },
    },
    { id: "cccccccc-0000-4000-8000-000000000001", note: "first", lastUsedTime: at("2026-01-02T00:00:00Z") },
  ]);
  expect(await store.tokens.byId("cccccccc-0000-4000-8000-000000000002")).toMatchObject({
    digest: Buffer.from([2]),
    ownerAdmin: true,
  });
});

test.for(releases)("an upgraded database of %s has the schema of a new one, and is written on", async (release) => {
  const [upgraded, fresh] = [await databaseOf(release), await emptyDatabase()];
  const store = await startStore(upgraded);
  await migrate(fresh);

  const service = await create(store, "new");
  await remove(store, first.wiki);

  expect(service.revision).toBe(7n);
  expect((await store.services.snapshot()).services.map(({ name }) => name)).toEqual(["Grader", "new"]);
  expect(await schemaOf(upgraded)).toEqual(await schemaOf(fresh));
});

test("servers that migrate one empty database at once all succeed, and each step is taken once", async () => {
  const connection = await emptyDatabase();

  const stores = await Promise.all([1, 2, 3, 4].map(() => startStore(connection)));

  const taken = await read<{ step: string }>(connection, "SELECT step FROM migrations ORDER BY step");
  expect(taken.map(({ step }) => step)).toEqual((await readdir(steps)).toSorted());
  expect(new Set(stores.map(({ storeUid }) => storeUid)).size).toBe(1);
  expect(await read(connection, "SELECT head FROM store")).toEqual([{ head: "0" }]);
});

test("migrating again changes nothing", async () => {
  const connection = await emptyDatabase();
  await migrate(connection);
  const before = await read(connection, "SELECT * FROM migrations");

  await migrate(connection);

  expect(await read(connection, "SELECT * FROM migrations")).toEqual(before);
});

test("a database that a newer version has changed is refused with its steps, and left alone", async () => {
  const connection = await emptyDatabase();
  await migrate(connection);
  await query(connection, "INSERT INTO migrations (step) VALUES ('9999_from_the_future.sql')");
  const before = await schemaOf(connection);

  const starting = startStore(connection);

  await expect(starting).rejects.toThrow(
    "the database was changed by a newer version (9999_from_the_future.sql); run that version",
  );
  expect(await schemaOf(connection)).toEqual(before);
});

test("a step that fails leaves nothing of itself or of the ones before", async () => {
  const connection = await emptyDatabase();
  await query(connection, "CREATE TABLE requests (not_ours text)");

  await expect(migrate(connection)).rejects.toThrow('relation "requests" already exists');

  expect(await read(connection, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).toEqual([
    { tablename: "requests" },
  ]);
});

test("a database that is away at the start is waited for, until it is there, enough is enough, or all is stopped", async () => {
  const postgres = await PrivatePostgres.start();
  atEnd(() => postgres.dispose());
  const connection = { ...postgres.connection };
  await postgres.stop();
  const start = (startTimeoutMs: number) => {
    const store = new Store({ connection, node: "here", log: silentLog, startTimeoutMs });
    atEnd(() => store.stop());
    return { store, starting: store.start() };
  };
  const [patient, impatient, stopped] = [start(60_000), start(0), start(60_000)];
  const away = { code: "unavailable", reason: "STORE_UNAVAILABLE" };
  const refused = [impatient, stopped].map(({ starting }) => expect(starting).rejects.toMatchObject(away));

  await stopped.store.stop();
  await Promise.all(refused);
  await postgres.start();
  await patient.starting;

  const { revision } = await patient.store.write(async (tx) => tx.append(anOccurrence()));
  expect(revision).toBe(1n);
});

/** A database as a server of that release left it. */
async function databaseOf(release: string): Promise<EmbeddedConnection> {
  const connection = await emptyDatabase();
  await query(connection, await readFile(new URL(release, released), "utf8"));
  return connection;
}

/** Columns, constraints, indexes and functions, in the words of Postgres. */
async function schemaOf(connection: EmbeddedConnection): Promise<unknown[]> {
  return read(
    connection,
    `SELECT c.relname AS of, 'column ' || row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum) || ' ' || a.attname AS what,
            format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull || ' ' || COALESCE(pg_get_expr(d.adbin, d.adrelid), '') AS how
       FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
      WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
     UNION ALL SELECT conrelid::regclass::text, 'constraint ' || conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
     UNION ALL SELECT tablename, 'index ' || indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
     UNION ALL SELECT proname, 'function', pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
     ORDER BY 1, 2, 3`,
  );
}

function aProbe(action: ProbeAction, probe: Partial<Probe>): Probe {
  return { action, periodMs: 10_000, timeoutMs: 2_000, failureThreshold: 3, successThreshold: 1, ...probe };
}

function at(time: string): Date {
  return new Date(time);
}

const killed = {
  reason: "signaled",
  code: undefined,
  signal: "SIGKILL",
  message: "killed",
  time: at("2026-01-02T03:04:05Z"),
  requested: false,
} as const;

const managed: ManagedSpec = {
  type: "managed",
  command: ["python3", "-m", "grader", "é"],
  environment: { COLOUR: "green" },
  cwd: "/var/lib",
  user: "nobody",
  restartPolicy: {
    mode: "on_failure",
    baseDelayMs: 100,
    maxDelayMs: 60_000,
    multiplier: 2,
    resetAfterMs: 120_000,
    immediateAfterMs: 10_000,
    maxRestarts: 5,
    noRestartExitCodes: [],
    crashLoopExits: 5,
    crashLoopWindowMs: 300_000,
  },
  stopGraceMs: 10_000,
  readinessTimeoutMs: 30_000,
  minReadyMs: 1_000,
  stopSignal: "SIGTERM",
  drainMs: undefined,
  limits: {},
  startupProbe: undefined,
  readinessProbe: undefined,
  livenessProbe: undefined,
  dependsOn: [],
  updateStrategy: "recreate",
};

const grader: Service = {
  name: "Grader",
  uid: "aaaaaaaa-0000-4000-8000-000000000001",
  spec: {
    kind: managed,
    admin: true,
    url: "http://127.0.0.1:20000",
    apiTokenSet: true,
    oauthClientId: "service-Grader",
    oauthNoConfirm: false,
    info: { deep: [1, null, { a: "b" }] },
    display: true,
    labels: { tier: "gold" },
  },
  wish: "running",
  generation: 3,
  resets: 0,
  version: 2,
  status: {
    ...blankStatus,
    state: "running",
    ready: true,
    observedGeneration: 3,
    instanceId: "bbbbbbbb-0000-4000-8000-000000000002",
    pid: 4712,
    startTime: at("2026-01-02T03:04:06Z"),
    readyTime: at("2026-01-02T03:04:07Z"),
    lastExit: killed,
    restarts: 1,
    failures: 1,
    recentFailures: [killed.time],
    url: "http://127.0.0.1:20000",
    published: true,
    transitionTime: at("2026-01-02T03:04:07Z"),
  },
  route: {
    service: "Grader",
    serviceUid: "aaaaaaaa-0000-4000-8000-000000000001",
    prefix: "/services/Grader/",
    target: "http://127.0.0.1:20000",
    state: "programmed",
    generation: 2,
    programmedGeneration: 2,
    proxy: "bundled",
    reason: "",
    message: "",
    transitionTime: at("2026-01-02T03:04:08Z"),
    confirmTime: at("2026-01-02T03:05:08Z"),
  },
  revision: 6n,
  createTime: at("2026-01-01T00:00:00Z"),
  updateTime: at("2026-01-02T00:00:00Z"),
  setName: "course",
};

const wiki: Service = {
  name: "wiki",
  uid: "aaaaaaaa-0000-4000-8000-000000000002",
  spec: {
    kind: { type: "external", probe: undefined },
    admin: false,
    url: undefined,
    apiTokenSet: false,
    oauthClientId: "service-wiki",
    oauthNoConfirm: true,
    info: {},
    display: false,
    labels: {},
  },
  wish: "deleted",
  generation: 1,
  resets: 0,
  version: 2,
  status: { ...blankStatus, state: "external", transitionTime: at("2026-01-01T00:00:00Z") },
  route: undefined,
  revision: 5n,
  createTime: at("2026-01-01T00:00:00Z"),
  updateTime: at("2026-01-01T00:00:00Z"),
  setName: "",
};

const ended: Instance = {
  id: "bbbbbbbb-0000-4000-8000-000000000001",
  service: "Grader",
  serviceUid: grader.uid,
  generation: 2,
  node: "here",
  role: "current",
  state: "ended",
  process: { bootId: "boot", pid: 4710, startTime: "100" },
  pid: 4711,
  createTime: at("2026-01-02T03:04:01Z"),
  startTime: at("2026-01-02T03:04:02Z"),
  readyTime: undefined,
  exit: killed,
};

const running: Instance = {
  ...ended,
  id: "bbbbbbbb-0000-4000-8000-000000000002",
  generation: 3,
  state: "running",
  process: { bootId: "boot", pid: 4709, startTime: "200" },
  pid: 4712,
  createTime: at("2026-01-02T03:04:05Z"),
  startTime: at("2026-01-02T03:04:06Z"),
  readyTime: at("2026-01-02T03:04:07Z"),
  exit: undefined,
};

/** What was written before there were rolling updates, probes and limits: what it lacks has the default of then, because that is how it was run. */
const first = { grader, wiki, instances: [running, ended] };

/** The same since then, with all that a service can have. */
const later: typeof first = {
  grader: {
    ...grader,
    spec: {
      ...grader.spec,
      kind: {
        ...managed,
        restartPolicy: {
          ...managed.restartPolicy,
          multiplier: 1.5,
          immediateAfterMs: 5_000,
          noRestartExitCodes: [64, 78],
          crashLoopExits: 3,
          crashLoopWindowMs: 60_000,
        },
        stopSignal: "SIGINT",
        drainMs: 5_000,
        limits: { memoryBytes: 268_435_456, nice: 5 },
        startupProbe: aProbe({ kind: "exec", command: ["true", "é"] }, { periodMs: 5_000 }),
        readinessProbe: aProbe({ kind: "http", path: "/health", port: undefined }, { periodMs: 2_000 }),
        livenessProbe: aProbe({ kind: "grpc", port: 20_001, service: "" }, { failureThreshold: 6 }),
        dependsOn: [{ service: "wiki", condition: "started" }],
        updateStrategy: "rolling",
      },
      url: "http://127.0.0.1:0",
    },
    generation: 4,
    resets: 2,
    status: {
      ...grader.status,
      readyTransitionTime: at("2026-01-02T03:04:07Z"),
      conditions: [{ type: "output_at_risk", message: "the disk is nearly full", since: at("2026-01-02T03:04:08Z") }],
      waitingFor: [{ service: "wiki", condition: "started", message: "there is no such service" }],
      replacement: {
        instanceId: "bbbbbbbb-0000-4000-8000-000000000003",
        pid: 4713,
        generation: 4,
        url: "http://127.0.0.1:20002",
        startTime: at("2026-01-02T03:04:08Z"),
        isStopping: false,
        failure: "",
      },
      retiring: {
        instanceId: "bbbbbbbb-0000-4000-8000-000000000001",
        pid: undefined,
        generation: 2,
        url: undefined,
        startTime: at("2026-01-02T03:04:02Z"),
        isStopping: true,
        failure: "",
      },
      failedGeneration: 2,
      observedResets: 2,
    },
  },
  wiki: {
    ...wiki,
    spec: {
      ...wiki.spec,
      kind: {
        type: "external",
        probe: aProbe({ kind: "tcp", port: 8_080 }, { periodMs: 60_000, failureThreshold: 1 }),
      },
    },
  },
  instances: [
    {
      ...running,
      id: "bbbbbbbb-0000-4000-8000-000000000003",
      generation: 4,
      role: "replacement",
      process: { bootId: "boot", pid: 4714, startTime: "300" },
      pid: 4713,
      createTime: at("2026-01-02T03:04:07Z"),
      startTime: at("2026-01-02T03:04:08Z"),
      readyTime: undefined,
    },
    running,
    ended,
  ],
};
