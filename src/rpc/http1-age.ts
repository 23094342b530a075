import type { Socket } from "node:net";
import { jittered } from "./stream-age.ts";

/** Tells which HTTP/1.1 connections are old enough to end with their next response, so that load spreads. */
export class Http1Age {
  readonly #greatestMs: number;
  readonly #endsAt = new WeakMap<Socket, number>();

  constructor(greatestMs: number) {
    this.#greatestMs = greatestMs;
  }

  /** To be asked on each request; the age counts from the first. */
  isReached(socket: Socket): boolean {
    const now = performance.now();
    const endsAt = this.#endsAt.get(socket);
    if (endsAt === undefined) this.#endsAt.set(socket, now + jittered(this.#greatestMs));
    return endsAt !== undefined && endsAt <= now;
  }
}
