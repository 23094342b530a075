import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { EmbeddedConnection } from "../../src/store/embedded-postgres.ts";

/** When a wire breaks: before a statement reaches the server, or once the server has answered it and nobody has heard. */
export interface Break {
  /** What the statement contains. */
  readonly statement: string;
  readonly lost: "statement" | "answer";
  /** Nothing gets through afterwards until `mend`. */
  readonly stays?: boolean;
}

/** A way to a Postgres that breaks, once, where a test says; afterwards it is whole again. */
export class PostgresWire {
  /** Resolves when the planned break has happened. */
  broken: Promise<void> = Promise.resolve();
  readonly #server: Server;
  readonly #target: EmbeddedConnection;
  readonly #sockets = new Set<Socket>();
  #plan: { readonly where: Break; readonly done: () => void } | undefined;

  #cut = false;

  private constructor(target: EmbeddedConnection) {
    this.#target = target;
    this.#server = createServer((client) => this.#join(client));
  }

  static async to(target: EmbeddedConnection): Promise<PostgresWire> {
    const wire = new PostgresWire(target);
    wire.#server.listen(0, "127.0.0.1");
    await once(wire.#server, "listening");
    return wire;
  }

  /** For a client or pool that shall take this way. */
  get connection(): { readonly host: string; readonly port: number; readonly user: string; readonly database: string } {
    const { user, database } = this.#target;
    return { host: "127.0.0.1", port: (this.#server.address() as AddressInfo).port, user, database };
  }

  /** Breaks the connection that next sends such a statement. */
  breakAt(where: Break): void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.broken = promise;
    this.#plan = { where, done: resolve };
  }

  mend(): void {
    this.#cut = false;
  }

  /** Carries nothing on the connections that there are and closes none: half open. New ones are whole. */
  freeze(): void {
    for (const socket of this.#sockets) socket.removeAllListeners("data").pause();
  }

  async close(): Promise<void> {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    if (this.#server.listening) await once(this.#server, "close");
  }

  #join(client: Socket): void {
    if (this.#cut) {
      client.destroy();
      return;
    }
    const server = connect(join(this.#target.host, `.s.PGSQL.${this.#target.port}`));
    const close = () => {
      client.destroy();
      server.destroy();
    };
    for (const socket of [client, server]) {
      this.#sockets.add(socket);
      socket.on("error", close);
      socket.on("close", () => {
        this.#sockets.delete(socket);
        close();
      });
    }
    let deaf = false;
    client.on("data", (sent: Buffer) => {
      const plan = this.#plan;
      const at = plan === undefined ? -1 : sent.indexOf(plan.where.statement);
      if (plan === undefined || at < 0) {
        server.write(sent);
        return;
      }
      this.#plan = undefined;
      if (plan.where.stays === true) {
        this.#cut = true;
        for (const socket of this.#sockets) if (socket !== client && socket !== server) socket.destroy();
      }
      if (plan.where.lost === "statement") {
        close();
        plan.done();
        return;
      }
      deaf = true;
      server.write(sent);
      server.once("data", () => {
        close();
        plan.done();
      });
    });
    server.on("data", (answer: Buffer) => {
      if (!deaf) client.write(answer);
    });
  }
}
