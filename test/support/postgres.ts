import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { inject } from "vitest";
import { databaseUrl, type EmbeddedConnection, EmbeddedPostgres } from "../../src/store/embedded-postgres.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** The server that all files of a run share; only its databases are a file's own. */
    postgres?: EmbeddedConnection;
  }
}

export interface TestDatabase {
  /** For `--database-url`. */
  readonly url: string;
  /** The same for a `pg` client or pool. */
  readonly connection: EmbeddedConnection;
  /** Disconnects whoever still uses it and removes it. */
  drop(): Promise<void>;
}

/** A fresh database on the server of this run: empty, or a copy of `template`, to which nobody may then be connected. */
export async function createTestDatabase({
  template = "template0",
}: {
  template?: string;
} = {}): Promise<TestDatabase> {
  const server = inject("postgres");
  if (server === undefined) throw new Error("only tests of the projects room and end-to-end have a Postgres");
  const database = `test_${randomBytes(6).toString("hex")}`;
  await query(server, `CREATE DATABASE ${database} TEMPLATE ${pg.escapeIdentifier(template)}`);
  const connection = { ...server, database };
  const drop = async () => void (await query(server, `DROP DATABASE IF EXISTS ${database} WITH (FORCE)`));
  return { url: databaseUrl(connection), connection, drop };
}

/** The databases of tests that a server has. */
export async function testDatabases(connection: EmbeddedConnection): Promise<string[]> {
  const rows = await query(connection, "SELECT datname FROM pg_database WHERE datname LIKE 'test\\_%'");
  return rows.map(({ datname }) => String(datname));
}

/** Runs one statement on a connection of its own. */
export async function query(connection: EmbeddedConnection, text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ ...connection });
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(text)).rows;
  } finally {
    await client.end();
  }
}

/** A server of a test's own, for what no other test would survive; its url stays the same over stops and starts. */
export class PrivatePostgres {
  readonly #root: string;
  readonly #server: EmbeddedPostgres;

  private constructor(root: string) {
    this.#root = root;
    this.#server = new EmbeddedPostgres({ dataDir: join(root, "postgres"), log: () => undefined });
  }

  /** Resolves when queries are accepted. */
  static async start(): Promise<PrivatePostgres> {
    const postgres = new PrivatePostgres(await mkdtemp(join(tmpdir(), "steward-test-pg-")));
    try {
      await postgres.start();
      return postgres;
    } catch (error) {
      await postgres.dispose();
      throw error;
    }
  }

  get connection(): EmbeddedConnection {
    return this.#server.connection;
  }

  get url(): string {
    return databaseUrl(this.connection);
  }

  start(): Promise<void> {
    return this.#server.start();
  }

  /** Takes it away until `start`: orderly, or as a crash of the whole server would. */
  async stop(how: "fast" | "immediate" | "kill" = "fast"): Promise<void> {
    if (how !== "fast") this.#signal(how === "kill" ? "SIGKILL" : "SIGQUIT");
    await this.#server.stop();
  }

  /** Kills the server, which then comes back by itself; resolves once the process is told, not when it is back. */
  crash(): void {
    this.#signal("SIGKILL");
  }

  /** Ends it and removes its files. */
  async dispose(): Promise<void> {
    await this.#server.stop();
    await rm(this.#root, { recursive: true, force: true });
  }

  #signal(signal: NodeJS.Signals): void {
    if (this.#server.pid === undefined) throw new Error("the server does not run");
    process.kill(this.#server.pid, signal);
  }
}
