import { once } from "node:events";
import { connect, type Socket } from "node:net";
import type { Random } from "../../support/random.ts";

/** A door of the server. */
export interface Door {
  readonly name: "connect" | "grpc" | "local";
  readonly place: { readonly host: string; readonly port: number } | { readonly path: string };
}

/** One attack that is under way: what it draws its choices from, whom it attacks, and what it holds open. */
export class Assault {
  readonly random: Random;
  readonly door: Door;
  /** Of a principal that may do everything, and whom nothing is owed. */
  readonly secret: string;
  readonly #held: Held;

  constructor(o: { random: Random; door: Door; secret: string; held: Held }) {
    this.random = o.random;
    this.door = o.door;
    this.secret = o.secret;
    this.#held = o.held;
  }

  /** A connection; it may be refused or cut at any moment, and that is no failure of the attack. */
  async connect(): Promise<Socket> {
    const socket = connect({ ...this.door.place, allowHalfOpen: true });
    socket.on("error", () => undefined);
    await Promise.race([once(socket, "connect"), closed(socket)]).catch(() => undefined);
    return socket;
  }

  /** Sends in one piece or many, and resolves when the bytes have left or nobody takes them any more. */
  async send(socket: Socket, bytes: Buffer): Promise<void> {
    const pieces = this.random.chance(70) ? 1 : this.random.integer(2, 20);
    const size = Math.max(1, Math.ceil(bytes.length / pieces));
    for (let at = 0; at < bytes.length && socket.writable; at += size)
      await written(socket, bytes.subarray(at, at + size));
  }

  /** One byte after the other. */
  async drip(socket: Socket, bytes: Buffer, everyMs: number): Promise<void> {
    socket.setNoDelay(true);
    const gone = closed(socket);
    for (const byte of bytes) {
      if (!socket.writable) return;
      await written(socket, Buffer.from([byte]));
      await within(everyMs, gone);
    }
  }

  /** Ends a connection in one of the ways in which clients do; it may listen to the answers before, or not. */
  async leave(socket: Socket): Promise<void> {
    if (this.random.chance(50)) socket.resume();
    if (this.random.chance(50)) await within(this.random.integer(1, 100), closed(socket));
    switch (this.random.one(["end", "destroy", "reset", "hold"])) {
      case "end":
        socket.resume();
        socket.end();
        await within(1000, closed(socket));
        socket.destroy();
        break;
      case "destroy":
        socket.destroy();
        break;
      case "reset":
        // A Unix socket knows no reset.
        if ("path" in this.door.place) socket.destroy();
        else socket.resetAndDestroy();
        break;
      case "hold":
        this.#held.add(socket);
    }
  }
}

/** Connections that nobody uses and nobody closes, until there are too many. */
export class Held {
  readonly #sockets: Socket[] = [];

  add(socket: Socket): void {
    this.#sockets.push(socket);
    if (this.#sockets.length > 100) this.#sockets.shift()?.destroy();
  }

  release(): void {
    for (const socket of this.#sockets.splice(0)) socket.destroy();
  }
}

/** Resolves when the thing happens, or after the time. */
export async function within(ms: number, thing: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([thing, late]);
  clearTimeout(timer);
}

export function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    if (socket.destroyed) resolve();
    else socket.once("close", () => resolve());
  });
}

// Whoever does not read its answers may never be read again either.
const longestWriteMs = 500;

async function written(socket: Socket, bytes: Buffer): Promise<void> {
  const left = new Promise<void>((resolve) => socket.write(bytes, () => resolve()));
  await within(longestWriteMs, left);
}
