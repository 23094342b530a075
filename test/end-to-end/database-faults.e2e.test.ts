import { randomUUID } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { EventType } from "../../gen/steward/v1/event_pb.ts";
import { eventually } from "../support/eventually.ts";
import { PrivatePostgres, query } from "../support/postgres.ts";
import { external } from "./bad-requests.ts";
import { EventFollower, wholeLog } from "./event-follower.ts";
import { exitOf, startObedient, startSleeper, statusOf } from "./fault-scene.ts";
import { TestSteward } from "./harness.ts";
import { readRefusal, refusalOf } from "./refusal.ts";
import { type Clients, clientsOf, type TransportName, transports } from "./transports.ts";

let postgres: PrivatePostgres;
let steward: TestSteward;
let admin: Clients;
let followers: EventFollower[];

const as = (transport: TransportName) => clientsOf(transport, steward.addresses, steward.adminToken);

beforeEach(async () => {
  followers = [];
  postgres = await PrivatePostgres.start();
  steward = await TestSteward.start({ flags: { "database-url": postgres.url } });
  admin = as("gRPC on the gRPC listener");
});
afterEach(async () => {
  for (const follower of followers) await follower[Symbol.asyncDispose]();
  await steward?.[Symbol.asyncDispose]();
  await postgres?.dispose();
});

/** One client over each transport; each keeps its clients, as the server keeps its ports. */
function followEverywhere(): void {
  for (const transport of transports) {
    const clients = as(transport);
    followers.push(new EventFollower(() => clients));
  }
}

/** That each follower was told what a client that comes now is told: no event less, none twice, none in another order. */
async function expectNoGap(): Promise<void> {
  const log = await wholeLog(() => admin);
  const last = log.events.at(-1)?.revision ?? 0n;
  await Promise.all(followers.map((follower) => follower.reached(last)));
  for (const { places } of followers) expect(places.slice(0, log.places.length)).toEqual(log.places);
}

describe.each([
  ["stopped", "fast", 10],
  ["stopped at once", "immediate", 2],
  ["killed", "kill", 2],
] as const)("while the database is %s", (_, how, seconds) => {
  test("services run on, calls are told to come back, and watchers miss nothing", async () => {
    const names = ["one", "two", "three"];
    const before = await Promise.all(names.map((name) => startSleeper(admin, name)));
    const obedient = await startObedient(steward, admin, "obedient");
    followEverywhere();
    const start = performance.now();

    await postgres.stop(how);
    await obedient.exit(23);
    for (let round = 0; performance.now() - start < seconds * 1_000; round++) {
      const { registry, supervisor } = as(transports[round % transports.length] ?? transports[0]);
      const refusals = await Promise.all(
        [
          registry.get({ name: "one" }),
          registry.list({}),
          registry.create({ serviceId: `meanwhile-${round}`, service: { spec: external() } }),
          registry.delete({ name: "one", force: true }),
          supervisor.restart({ name: "two" }),
          supervisor.listEvents({}),
          supervisor.watchEvents({})[Symbol.asyncIterator]().next(),
        ].map(refusalOf),
      );
      for (const refusal of refusals)
        expect(refusal).toMatchObject({ code: "Unavailable", reason: "STORE_UNAVAILABLE", mayRetry: true });
    }
    await postgres.start();
    await eventually(() => admin.registry.list({}));

    const after = await Promise.all(names.map((name) => statusOf(admin, name)));
    expect(after).toEqual(before.map(({ status }) => status));
    expect(await exitOf(admin, "obedient")).toMatchObject({ code: 23, requested: false });
    await startSleeper(admin, "afterwards");
    await expectNoGap();
    expect((await admin.registry.list({ pageSize: 1_000 })).services.map(({ name }) => name).sort()).toEqual(
      ["afterwards", "obedient", ...names].sort(),
    );
  });
});

test("when the connection that listens is terminated, watchers go on as if nothing had been", async () => {
  const listening = `SELECT pid FROM pg_stat_activity WHERE application_name = 'steward wake-ups'`;
  followEverywhere();

  for (let round = 0; round < 5; round++) {
    const [before] = await eventually(async () => {
      const rows = await query(postgres.connection, listening);
      return rows.length === 1 && rows;
    });
    await query(postgres.connection, `SELECT pg_terminate_backend(${Number(before?.["pid"])})`);
    const { revision } = await admin.registry.create({ serviceId: `x-${round}`, service: { spec: external() } });
    await Promise.all(followers.map((follower) => follower.reached(revision)));
  }

  await eventually(async () => (await query(postgres.connection, listening)).length === 1);
  expect(followers.map(({ breaks }) => breaks)).toEqual(followers.map(() => []));
  await expectNoGap();
});

test("when every connection is terminated again and again, each write that is tried until it is acknowledged is done once", async () => {
  followEverywhere();
  const names = Array.from({ length: 60 }, (_, index) => `x-${index}`);
  const queue = names.values();
  let acknowledged = 0;
  const write = async () => {
    for (const serviceId of queue) {
      await untilAcknowledged({ serviceId, requestId: randomUUID(), service: { spec: external() } });
      acknowledged += 1;
    }
  };
  const terminate = async () => {
    while (acknowledged < names.length) {
      const before = acknowledged;
      const ours = "FROM pg_stat_activity WHERE application_name LIKE 'steward%'";
      await query(postgres.connection, `SELECT pg_terminate_backend(pid) ${ours}`);
      await eventually(() => acknowledged > before, { timeoutMs: 30_000 });
    }
  };

  await Promise.all([terminate(), ...Array.from({ length: 6 }, write)]);

  const { services } = await admin.registry.list({ pageSize: 1_000 });
  expect(services.map(({ name }) => name).sort()).toEqual(names.sort());
  const { events } = await wholeLog(() => admin);
  expect(events.filter(({ type }) => type === EventType.SERVICE_CREATED)).toHaveLength(names.length);
  await expectNoGap();
});

/** As a client does it that takes RetryInfo at its word; any other refusal fails the test. */
async function untilAcknowledged(request: Parameters<Clients["registry"]["create"]>[0]): Promise<void> {
  await eventually(async () => {
    const refusal = await admin.registry.create(request).then(() => undefined, readRefusal);
    if (refusal !== undefined) expect(refusal).toMatchObject({ reason: "STORE_UNAVAILABLE", mayRetry: true });
    return refusal === undefined;
  });
}
