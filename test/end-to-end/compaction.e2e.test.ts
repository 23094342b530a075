import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createStewardClient } from "../../src/client.ts";
import { createPool } from "../../src/store/postgres.ts";
import { compact } from "../../src/store/retention.ts";
import { createTestDatabase, query, type TestDatabase } from "../support/postgres.ts";
import { external } from "./bad-requests.ts";
import { TestSteward } from "./harness.ts";
import { refusalOf } from "./refusal.ts";
import { type Clients, clientsOf, transports } from "./transports.ts";

let database: TestDatabase;
let steward: TestSteward;
/** The revision that created each service. Those of before `kept` are no longer kept. */
let created: { readonly first: bigint; readonly last: bigint; readonly kept: bigint };

beforeAll(async () => {
  database = await createTestDatabase();
  steward = await TestSteward.start({ flags: { "database-url": database.url } });
  const { registry } = clientsOf("gRPC on the gRPC listener", steward.addresses, steward.adminToken);
  const create = async (serviceId: string) =>
    (await registry.create({ serviceId, service: { spec: external() } })).revision;
  created = { first: await create("first"), last: await create("last"), kept: await create("kept") };
  await forgetUpTo(created.last);
});

afterAll(async () => {
  await steward?.[Symbol.asyncDispose]();
  await database?.drop();
});

describe.each(transports)("over %s, after a place that is no longer kept,", (name) => {
  let clients: Clients;
  beforeAll(() => {
    clients = clientsOf(name, steward.addresses, steward.adminToken);
  });

  test.each(["watchEvents", "watchServices", "listEvents"] as const)(
    "%s is told of the oldest one that is",
    async (method) => {
      const after = { revision: created.first };
      const call = {
        watchEvents: () => Array.fromAsync(clients.supervisor.watchEvents({ after })),
        watchServices: () => Array.fromAsync(clients.registry.watchServices({ after })),
        listEvents: () => clients.supervisor.listEvents({ after }),
      }[method];

      const refusal = await refusalOf(call());

      expect(refusal).toMatchObject({ code: "OutOfRange", reason: "REVISION_COMPACTED" });
      expect(refusal.metadata).toMatchObject({ requested: String(created.first), oldest: String(created.last) });
      expect(BigInt(refusal.metadata["head"] ?? 0)).toBeGreaterThanOrEqual(created.kept);
    },
  );

  test("a watch goes on with the first event after that", async () => {
    const ending = new AbortController();
    const after = { revision: created.last };
    const told: bigint[] = [];

    for await (const { message } of clients.supervisor.watchEvents({ after }, { signal: ending.signal })) {
      if (message.case !== "batch") continue;
      told.push(...message.value.events.map(({ revision }) => revision));
      break;
    }
    ending.abort();

    expect(told[0]).toBe(created.kept);
  });
});

describe.each(["connect", "grpc"] as const)(
  "a client that speaks %s, after a place that is no longer kept,",
  (protocol) => {
    const clientOf = () =>
      createStewardClient({ address: steward.addresses[protocol], token: steward.adminToken, protocol });

    test("is told of a gap, then of every event since the oldest", async () => {
      using client = clientOf();

      const kinds: string[] = [];
      for await (const update of client.watchEvents({ after: { revision: created.first } })) {
        if (update.kind !== "progress") kinds.push(update.kind);
        if (update.kind !== "events") continue;
        expect(update.events[0]?.revision).toBe(created.kept);
        break;
      }

      expect(kinds).toEqual(["gap", "events"]);
    });

    test("is told of all services anew", async () => {
      using client = clientOf();

      for await (const update of client.watchServices({ after: { revision: created.first } })) {
        expect(update.kind).toBe("snapshot");
        if (update.kind === "snapshot")
          expect(update.services.map(({ name }) => name).sort()).toEqual(["first", "kept", "last"]);
        break;
      }
    });
  },
);

/** What another server on the same database does a week later. */
async function forgetUpTo(revision: bigint): Promise<void> {
  const { connection } = database;
  await query(connection, `UPDATE events SET time = time - interval '8 days' WHERE revision <= ${revision}`);
  const pool = createPool({ ...connection }, { onIdleError: () => undefined });
  await compact(pool);
  await pool.end();
}
