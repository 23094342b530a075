import type { Socket } from "node:net";

/** The connections of a port, whatever is spoken on them. */
export class OpenSockets {
  readonly #lastWordsMs: number;
  readonly #sockets = new Set<Socket>();
  /** How many there have been. */
  taken = 0;

  /** `lastWordsMs`: how long a client may take to go once we have ended a connection. */
  constructor({ lastWordsMs }: { readonly lastWordsMs: number }) {
    this.#lastWordsMs = lastWordsMs;
  }

  /** Keeps one until it closes. One that we have ended, and whose client never ends it, is cut: it would be half open for ever. */
  add(socket: Socket): void {
    let timer: NodeJS.Timeout | undefined;
    this.taken += 1;
    this.#sockets.add(socket);
    socket.on("finish", () => {
      timer = setTimeout(() => socket.destroy(), this.#lastWordsMs).unref();
    });
    socket.on("close", () => {
      clearTimeout(timer);
      this.#sockets.delete(socket);
    });
  }

  destroyAll(): void {
    for (const socket of this.#sockets) socket.destroy();
  }
}
