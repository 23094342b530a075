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
  #isSilent = false;

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

  /** Lets everything through but notifications, until told otherwise: those who listen hear of nothing, and of no failure. */
  silence(isSilent: boolean): void {
    this.#isSilent = isSilent;
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
    const messages = new BackendMessages();
    server.on("data", (answer: Buffer) => {
      const heard = messages.without(answer, this.#isSilent ? "NotificationResponse" : "nothing");
      if (!deaf) for (const part of heard) client.write(part);
    });
  }
}

const notificationResponse = "A".charCodeAt(0);
const headerBytes = 5;

/** The messages of a Postgres in a stream that is cut anywhere: a type of one byte, a length of four that counts itself, the rest. */
class BackendMessages {
  #header = Buffer.alloc(0);
  #left = 0;
  #isDropped = false;

  /** What of the next bytes is to be passed on. A message is dropped whole or not at all. */
  without(bytes: Buffer, dropped: "NotificationResponse" | "nothing"): Buffer[] {
    const kept: Buffer[] = [];
    for (let at = 0; at < bytes.length; ) {
      if (this.#left === 0) {
        const missing = headerBytes - this.#header.length;
        this.#header = Buffer.concat([this.#header, bytes.subarray(at, at + missing)]);
        at += missing;
        if (this.#header.length < headerBytes) break;
        this.#left = this.#header.readUInt32BE(1) - 4;
        this.#isDropped = dropped === "NotificationResponse" && this.#header[0] === notificationResponse;
        if (!this.#isDropped) kept.push(this.#header);
        this.#header = Buffer.alloc(0);
      } else {
        const body = bytes.subarray(at, at + this.#left);
        at += body.length;
        this.#left -= body.length;
        if (!this.#isDropped) kept.push(body);
      }
    }
    return kept.length === 0 ? [] : [Buffer.concat(kept)];
  }
}
