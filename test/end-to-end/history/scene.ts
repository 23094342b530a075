import { randomBytes } from "node:crypto";
import type { EmbeddedConnection } from "../../../src/store/embedded-postgres.ts";
import { eventually } from "../../support/eventually.ts";
import { type PrivatePostgres, query } from "../../support/postgres.ts";
import { PostgresWire } from "../../support/postgres-wire.ts";
import { freePort, TestSteward } from "../harness.ts";
import { Relay } from "../relay.ts";
import { type Clients, clientsOf, transports } from "../transports.ts";
import { type Fault, names } from "./plan.ts";

/** A whole Steward between two wires, one to its clients and one to its database; both can be cut, and all of it can be killed. */
export class Scene implements AsyncDisposable {
  readonly #postgres: PrivatePostgres;
  readonly #database: string;
  readonly #wire: PostgresWire;
  readonly #steward: TestSteward;
  readonly #relays: { readonly connect: Relay; readonly grpc: Relay };
  readonly #parts: AsyncDisposableStack;
  #narrowToken = "";

  private constructor(
    postgres: PrivatePostgres,
    parts: {
      readonly database: string;
      readonly wire: PostgresWire;
      readonly steward: TestSteward;
      readonly relays: { readonly connect: Relay; readonly grpc: Relay };
    },
    stack: AsyncDisposableStack,
  ) {
    this.#postgres = postgres;
    this.#database = parts.database;
    this.#wire = parts.wire;
    this.#steward = parts.steward;
    this.#relays = parts.relays;
    this.#parts = stack;
  }

  /** Resolves when it serves, on a database of its own. */
  static async open(postgres: PrivatePostgres): Promise<Scene> {
    await using stack = new AsyncDisposableStack();
    const database = `history_${randomBytes(6).toString("hex")}`;
    await query(postgres.connection, `CREATE DATABASE ${database}`);
    stack.defer(async () => void (await query(postgres.connection, `DROP DATABASE ${database} WITH (FORCE)`)));
    const wire = await PostgresWire.to({ ...postgres.connection, database });
    stack.defer(() => wire.close());
    const { host, port, user } = wire.connection;
    const [connect, grpc] = [await freePort(), await freePort()];
    const steward = await TestSteward.start({
      flags: {
        "database-url": `postgresql://${user}@${host}:${port}/${database}`,
        // One that is killed comes back where it was.
        listen: `127.0.0.1:${connect}`,
        "grpc-listen": `127.0.0.1:${grpc}`,
      },
      keepServices: true,
    });
    stack.use(steward);
    const relays = {
      connect: stack.use(await Relay.to(steward.addresses.connect)),
      grpc: stack.use(await Relay.to(steward.addresses.grpc)),
    };
    const scene = new Scene(postgres, { database, wire, steward, relays }, stack.move());
    try {
      await scene.#issueNarrowToken();
    } catch (error) {
      await scene[Symbol.asyncDispose]();
      throw error;
    }
    return scene;
  }

  /** New clients over one of the transports, with their own connections; narrow: they may see the first of the names and no other. */
  clients(transport: number, { isNarrow = false } = {}): Clients {
    const { connect, grpc } = this.#relays;
    const addresses = { connect: `http://${connect.address}`, grpc: `http://${grpc.address}`, proxy: undefined };
    const token = isNarrow ? this.#narrowToken : this.#steward.adminToken;
    return clientsOf(transports[transport % transports.length] ?? transports[0], addresses, token);
  }

  /** The way to the database that no fault is on. */
  get connection(): EmbeddedConnection {
    return { ...this.#postgres.connection, database: this.#database };
  }

  /** Resolves once it has struck, and what was killed is back. */
  async strike(fault: Fault): Promise<void> {
    switch (fault) {
      case "terminate the listener":
        return this.#terminate("application_name = 'steward wake-ups'");
      case "terminate every connection":
        return this.#terminate("application_name LIKE 'steward%'");
      case "withhold notifications":
        return this.#wire.silence(true);
      case "deliver notifications":
        return this.#wire.silence(false);
      case "lose a commit":
        return this.#wire.breakAt({ statement: "COMMIT", lost: "statement" });
      case "lose the answer to a commit":
        return this.#wire.breakAt({ statement: "COMMIT", lost: "answer" });
      case "restart the database":
        await this.#postgres.stop("kill");
        return this.#postgres.start();
      case "restart the server":
        await this.#steward.crash();
        return this.#steward.startAgain();
      case "restart both":
        await Promise.all([this.#steward.crash(), this.#postgres.stop("kill")]);
        await Promise.all([this.#steward.startAgain(), this.#postgres.start()]);
        return;
      case "reset the clients":
        this.#relays.connect.reset();
        this.#relays.grpc.reset();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#parts.disposeAsync();
  }

  async #terminate(which: string): Promise<void> {
    const ours = `datname = '${this.#database}' AND ${which}`;
    await query(this.connection, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE ${ours}`);
  }

  async #issueNarrowToken(): Promise<void> {
    const [only] = names;
    const scopes = ["read:events", "read:services", "list:services"].map((scope) => `${scope}!service=${only}`);
    const { secret } = await eventually(() => this.clients(0).registry.issueToken({ scopes }));
    this.#narrowToken = secret;
  }
}
