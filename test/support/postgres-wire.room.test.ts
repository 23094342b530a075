import { once } from "node:events";
import pg from "pg";
import { expect, test } from "vitest";
import { createTestDatabase, query } from "./postgres.ts";
import { PostgresWire } from "./postgres-wire.ts";

test("a wire that is silent keeps back notifications and nothing else", async () => {
  const database = await createTestDatabase();
  const wire = await PostgresWire.to(database.connection);
  const client = new pg.Client(wire.connection);
  await client.connect();
  const heard: (string | undefined)[] = [];
  client.on("notification", ({ payload }) => heard.push(payload));
  await client.query("LISTEN news");

  wire.silence(true);
  await query(database.connection, "NOTIFY news, 'kept back'");
  // Whatever was to be told comes before the answer.
  const { rows } = await client.query("SELECT repeat('x', 100000) AS text");
  wire.silence(false);
  const told = once(client, "notification");
  await query(database.connection, "NOTIFY news, 'told'");
  await told;
  await client.end();
  await wire.close();
  await database.drop();

  expect(rows).toEqual([{ text: "x".repeat(100_000) }]);
  expect(heard).toEqual(["told"]);
});
