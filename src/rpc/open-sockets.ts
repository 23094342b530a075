import type { Server, Socket } from "node:net";

/** The connections of a port, whatever is spoken on them. */
export class OpenSockets {
  readonly #lastWordsMs: number;
  readonly #sockets = new Set<Socket>();
  #taken = 0;

  /** `lastWordsMs`: how long a client may take to go once we have ended a connection. */
  constructor({ lastWordsMs }: { readonly lastWordsMs: number }) {
    this.#lastWordsMs = lastWordsMs;
  }

  /** How many connections there have been. */
  get taken(): number {
    return this.#taken;
  }

  /** Keeps the connections of a server from now on, each until it closes: those that are still in their TLS handshake too. */
  watch(server: Server): void {
    server.on("connection", (socket: Socket) => {
      this.#taken += 1;
      this.#keep(socket);
    });
    // Under TLS it is this one that is ended.
    server.on("secureConnection", (socket: Socket) => this.#keep(socket));
  }

  destroyAll(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** One that we have ended, and whose client never ends it, is cut: it would be half open for ever. */
  #keep(socket: Socket): void {
    let timer: NodeJS.Timeout | undefined;
    this.#sockets.add(socket);
    socket.on("finish", () => {
      timer = setTimeout(() => socket.destroy(), this.#lastWordsMs).unref();
    });
    socket.on("close", () => {
      clearTimeout(timer);
      this.#sockets.delete(socket);
    });
  }
}
