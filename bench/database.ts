import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { databaseUrl, type EmbeddedConnection, EmbeddedPostgres } from "../src/store/embedded-postgres.ts";

/** A Postgres that Steward and the bare statements share, so that both have the same disk and the same settings. */
export class BenchPostgres implements AsyncDisposable {
  readonly #directory: string;
  readonly #server: EmbeddedPostgres;

  private constructor(directory: string) {
    this.#directory = directory;
    this.#server = new EmbeddedPostgres({ dataDir: join(directory, "postgres"), log: () => undefined });
  }

  static async start(): Promise<BenchPostgres> {
    const postgres = new BenchPostgres(await mkdtemp(join(tmpdir(), "steward-bench-pg-")));
    try {
      await postgres.#server.start();
      return postgres;
    } catch (error) {
      await postgres[Symbol.asyncDispose]();
      throw error;
    }
  }

  get connection(): EmbeddedConnection {
    return this.#server.connection;
  }

  get url(): string {
    return databaseUrl(this.connection);
  }

  /** A database of its own on the same server. */
  async createDatabase(name: string): Promise<EmbeddedConnection> {
    const client = new pg.Client({ ...this.connection });
    await client.connect();
    await client.query(`CREATE DATABASE ${pg.escapeIdentifier(name)}`);
    await client.end();
    return { ...this.connection, database: name };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.stop();
    await rm(this.#directory, { recursive: true, force: true });
  }
}
