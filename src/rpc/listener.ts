import { once } from "node:events";
import type { Server } from "node:net";

/** Where to listen. `port` 0 takes a free one; `path` is a Unix socket instead. */
export interface Address {
  /** Default 127.0.0.1. */
  readonly host?: string;
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
  /** Resolves when it listens; `address` then has the real port. Rejects with the reason, EADDRINUSE for example. */
  start(): Promise<void>;
  readonly address: { readonly host: string; readonly port: number };
  /** Takes no more connections and asks the clients of the open ones to go elsewhere. Open calls go on. */
  refuse(): void;
  /** Resolves when every connection is closed; those that do not close by themselves within the time are cut. */
  stop(withinMs?: number): Promise<void>;
}

/** Listens and resolves with the real address. */
export async function listen(
  server: Server,
  { host = "127.0.0.1", port }: Address,
): Promise<{ host: string; port: number }> {
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

/** Takes no more connections; resolves when the last is gone. */
export function closePort(server: Server): Promise<void> {
  if (!server.listening) return Promise.resolve();
  return new Promise((resolve) => server.close(() => resolve()));
}
