import { once } from "node:events";
import { chmod, rm } from "node:fs/promises";
import { Server } from "node:net";
import { setImmediate as nextTurn } from "node:timers/promises";

/** Where to listen: a port, 0 for a free one. */
export interface PortAddress {
  /** Default 127.0.0.1. */
  readonly host?: string;
  readonly port: number;
}

/** Where to listen: a Unix socket that only our own user may connect to. Who else could, for a moment, its directory keeps out. */
export interface SocketAddress {
  readonly path: string;
}

export type Address = PortAddress | SocketAddress;

/** Where a port really is. */
export interface BoundPort {
  readonly host: string;
  readonly port: number;
}

/** Certificate and key in PEM. With `clientCa` every client must show a certificate that it signed. */
export interface TlsMaterial {
  readonly cert: string | Buffer;
  readonly key: string | Buffer;
  readonly clientCa?: string | Buffer;
}

/** A port that takes calls. Started once; `stop` before `start` and twice is fine. */
export interface Listener {
  /** Resolves when it listens; `bound` then has the real port. Rejects with the reason, EADDRINUSE for example. */
  start(): Promise<void>;
  /** Undefined before the start, and for a Unix socket. */
  readonly bound: BoundPort | undefined;
  /** How many connections it has taken so far. */
  readonly taken: number;
  /** Takes no more connections and asks the clients of the open ones to go elsewhere. Open calls go on. */
  refuse(): void;
  /** Resolves when every connection is closed; those that do not close by themselves within the time are cut. */
  stop(withinMs?: number): Promise<void>;
}

/** Listens and resolves with the real port. */
export async function listen(server: Server, address: Address): Promise<BoundPort | undefined> {
  if ("path" in address) return listenOnSocket(server, address);
  const { host = "127.0.0.1", port } = address;
  server.listen({ host, port, backlog: 1024 });
  await once(server, "listening");
  const bound = server.address();
  if (bound === null || typeof bound === "string") throw new Error("listening, but on no port");
  return { host, port: bound.port };
}

/** What Node needs of the certificates, on either listener. */
export function secureContext({ cert, key, clientCa }: TlsMaterial) {
  return { cert, key, minVersion: "TLSv1.2" as const, ...(clientCa === undefined ? {} : { ca: clientCa }) };
}

/** Resolves when the port has closed, after cutting what is left of it if it takes too long. */
export async function closedWithin(
  closed: Promise<void> | undefined,
  withinMs: number,
  cut: () => void,
): Promise<void> {
  const timer = setTimeout(cut, withinMs);
  await closed;
  clearTimeout(timer);
}

/**
 * Resolves when no connection waits to be taken, or after a second in which there always was one. A port that closes resets those that wait, and of
 * each port Node takes one in a turn.
 */
export async function takeWaiting(listeners: readonly Listener[]): Promise<void> {
  const untilMs = performance.now() + 1000;
  const countTaken = () => listeners.reduce((sum, { taken }) => sum + taken, 0);
  for (let before = -1; before !== countTaken() && performance.now() < untilMs; ) {
    before = countTaken();
    // The rest of this turn, and a whole one.
    await nextTurn();
    await nextTurn();
  }
}

/**
 * Takes no more connections; resolves when the last is gone. Those which are idle stay: one that is closed just as its client sends a request looks to
 * that client like a failure of the request, where an answer would have told it to go elsewhere.
 */
export function closePort(server: Server): Promise<void> {
  if (!server.listening) return Promise.resolve();
  return new Promise((resolve) => Server.prototype.close.call(server, () => resolve()));
}

async function listenOnSocket(server: Server, { path }: SocketAddress): Promise<undefined> {
  // A server that was killed left its socket behind, which nobody can listen on again.
  await rm(path, { force: true });
  server.listen({ path, backlog: 1024 });
  await once(server, "listening");
  await chmod(path, 0o600);
}
