import { readdir, readFile } from "node:fs/promises";
import pg from "pg";
import { toAppError } from "./postgres.ts";

const folder = new URL("./migrations/", import.meta.url);

/** Any two servers that migrate one database at once take turns on this lock. */
const migrationLock = 7_381_640_255;

/**
 * Brings the schema up to date, each step once and in order, all or none; refuses a database that a newer version has changed. On a connection of
 * its own, because a step may take longer than any statement of a running server.
 */
export async function migrate(connection: pg.ClientConfig): Promise<void> {
  const steps = (await readdir(folder)).filter((file) => file.endsWith(".sql")).sort();
  const client = new pg.Client({ connectionTimeoutMillis: 5_000, keepAlive: true, ...connection });
  // A failing statement tells; without a listener the end of the connection would end the process.
  client.on("error", () => undefined);
  try {
    await client.connect();
    await client.query("BEGIN");
    await takeSteps(client, steps);
    await client.query("COMMIT");
  } catch (error) {
    throw toAppError(error);
  } finally {
    await client.end().catch(() => undefined);
  }
}

async function takeSteps(client: pg.Client, steps: readonly string[]): Promise<void> {
  await client.query("SELECT pg_advisory_xact_lock($1)", [migrationLock]);
  await client.query(
    "CREATE TABLE IF NOT EXISTS migrations (step text PRIMARY KEY, time timestamptz NOT NULL DEFAULT now())",
  );
  const { rows } = await client.query<{ step: string }>("SELECT step FROM migrations");
  const done = new Set(rows.map(({ step }) => step));
  const newer = [...done].filter((step) => !steps.includes(step));
  if (newer.length > 0)
    throw new Error(`the database was changed by a newer version (${newer.join(", ")}); run that version`);
  for (const step of steps.filter((each) => !done.has(each))) {
    await client.query(await readFile(new URL(step, folder), "utf8"));
    await client.query("INSERT INTO migrations (step) VALUES ($1)", [step]);
  }
}
