import { createServer } from "node:net";
import { AppError } from "../domain/errors.ts";

export interface PortWish {
  readonly range: PortRange;
  /** Given to somebody already, whether or not he listens yet. */
  readonly avoid: ReadonlySet<number>;
  /** The one it had before: taken when free, so that the number is stable over restarts. */
  readonly preferred?: number | undefined;
  /** The address that the service will listen at. */
  readonly host: string;
  /** Where in the range to begin, 0 to 1; default random, so that nodes on one host rarely meet. */
  readonly start?: number;
}

export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/**
 * A port of the range on which nobody listens now. It is not held: the caller adds it to what the next calls avoid, and a
 * stranger may still come first, which the service's own start will tell. Throws resource_exhausted when none is left.
 */
export async function findFreePort(wish: PortWish): Promise<number> {
  for (const port of candidates(wish)) {
    if (!wish.avoid.has(port) && (await canListen(port, wish.host))) return port;
  }
  const { first, last } = wish.range;
  throw new AppError("resource_exhausted", "QUOTA_EXCEEDED", `no port from ${first} to ${last} is free on this node`);
}

function* candidates({ range, preferred, start = Math.random() }: PortWish): Generator<number> {
  const { first, last } = range;
  const size = last - first + 1;
  const begin = Math.min(size - 1, Math.floor(start * size));
  if (preferred !== undefined && preferred >= first && preferred <= last) yield preferred;
  for (let index = 0; index < size; index++) yield first + ((begin + index) % size);
}

async function canListen(port: number, host: string): Promise<boolean> {
  const server = createServer();
  try {
    return await new Promise<boolean>((resolve, reject) => {
      server.once("error", (error) => (isTaken(error) ? resolve(false) : reject(error)));
      server.listen({ port, host, exclusive: true }, () => resolve(true));
    });
  } finally {
    if (server.listening) await new Promise((resolve) => server.close(resolve));
  }
}

function isTaken(error: Error): boolean {
  return "code" in error && (error.code === "EADDRINUSE" || error.code === "EACCES");
}
