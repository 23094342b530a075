import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import type { Logger } from "pino";

export interface WakeupOptions {
  readonly connection: pg.ClientConfig;
  readonly log: Logger;
  /** How often listeners are called though nobody told. Default 1 s. */
  readonly pollMs?: number;
  /** How often the connection is asked whether it still is one. Default 10 s. */
  readonly heartbeatMs?: number;
}

/**
 * Tells that something was appended, and no more: the message is never the event. A lost notification, or a connection that ended, costs one
 * poll, not an event.
 */
export class Wakeups {
  readonly #options: WakeupOptions;
  readonly #listeners = new Set<() => void>();
  readonly #stopping = new AbortController();
  #poll: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  #connects = 0;
  #isListening = false;
  #notifications = 0;

  constructor(options: WakeupOptions) {
    this.#options = options;
  }

  get isListening(): boolean {
    return this.#isListening;
  }

  get reconnects(): number {
    return Math.max(0, this.#connects - 1);
  }

  get notifications(): number {
    return this.#notifications;
  }

  /** Resolves once it listens, or cannot yet: the poll stands behind it. */
  async start(): Promise<void> {
    if (this.#stopping.signal.aborted) return;
    const tried = Promise.withResolvers<void>();
    this.#poll = setInterval(() => this.#wake(), this.#options.pollMs ?? 1_000);
    this.#poll.unref();
    this.#running = this.#run(tried.resolve);
    await tried.promise;
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    clearInterval(this.#poll);
    await this.#running;
  }

  /** Calls the listener after each append, sometimes without one; the returned function ends it. */
  onAppended(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async #run(onTried: () => void): Promise<void> {
    const { signal } = this.#stopping;
    for (let failures = 0; !signal.aborted; ) {
      const began = await this.#listen(onTried);
      onTried();
      failures = began ? 0 : failures + 1;
      await delay(Math.min(2_000, 100 * 2 ** failures), undefined, { signal }).catch(() => undefined);
    }
  }

  /** Listens on one connection until it ends; returns whether it did listen. */
  async #listen(onListening: () => void): Promise<boolean> {
    const client = new pg.Client({
      connectionTimeoutMillis: 5_000,
      query_timeout: 10_000,
      keepAlive: true,
      application_name: "steward wake-ups",
      ...this.#options.connection,
    });
    const ended = endOf(client, this.#stopping.signal);
    let began = false;
    try {
      await Promise.race([ended, client.connect()]);
      client.on("notification", () => this.#notified());
      await client.query("LISTEN steward");
      began = true;
      this.#connects += 1;
      this.#isListening = true;
      onListening();
      // What was appended before we listened was announced to nobody.
      this.#wake();
      await this.#beat(client, ended);
    } catch (error) {
      if (!this.#stopping.signal.aborted)
        this.#options.log.warn({ reason: String(error) }, "not listening for events; trying again");
    } finally {
      this.#isListening = false;
      await client.end().catch(() => undefined);
    }
    return began;
  }

  /** Finds a connection that is only half open, which no other sign tells. */
  async #beat(client: pg.Client, ended: Promise<"ended">): Promise<void> {
    const { heartbeatMs = 10_000 } = this.#options;
    for (;;) {
      const waiting = new AbortController();
      const pause = delay(heartbeatMs, undefined, { signal: waiting.signal }).catch(() => undefined);
      const end = await Promise.race([ended, pause]).finally(() => waiting.abort());
      if (end === "ended") return;
      await Promise.race([ended, client.query("SELECT 1")]);
    }
  }

  #notified(): void {
    this.#notifications += 1;
    this.#wake();
  }

  #wake(): void {
    for (const listener of this.#listeners) listener();
  }
}

/** Resolves when a connection ends or shall end, and rejects with what ended it. */
function endOf(client: pg.Client, signal: AbortSignal): Promise<"ended"> {
  const { promise, resolve, reject } = Promise.withResolvers<"ended">();
  client.on("error", reject);
  client.on("end", () => resolve("ended"));
  const onAbort = () => resolve("ended");
  signal.addEventListener("abort", onAbort, { once: true });
  const forget = () => signal.removeEventListener("abort", onAbort);
  promise.then(forget, forget);
  return promise;
}
