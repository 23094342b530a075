import pg from "pg";
import type { BenchPostgres } from "./database.ts";

/** Appends events as every transaction does, and knows when by the clock of the database, which is this host's. */
export class EventWriter implements AsyncDisposable {
  readonly #client: pg.Client;

  private constructor(client: pg.Client) {
    this.#client = client;
  }

  static async connect(postgres: BenchPostgres): Promise<EventWriter> {
    const client = new pg.Client({ ...postgres.connection });
    await client.connect();
    return new EventWriter(client);
  }

  async append(): Promise<{ revision: bigint; atMs: number }> {
    const event = { body: { type: "server_started" }, actor: "steward", message: "an event of the benchmark" };
    const { rows } = await this.#client.query<{ at: number; revision: string }>({
      name: "append",
      text: "SELECT extract(epoch FROM clock_timestamp())::float8 * 1000 AS at, revision FROM append_events($1, '{}', 'bench')",
      values: [JSON.stringify([event])],
    });
    const [row] = rows;
    if (row === undefined) throw new Error("nothing was appended");
    return { revision: BigInt(row.revision), atMs: row.at };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client.end();
  }
}
