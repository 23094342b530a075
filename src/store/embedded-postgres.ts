import { isMainThread } from "node:worker_threads";
import { type Clock, systemClock } from "../domain/clock.ts";
import { clearRemains, databaseName } from "./embedded-cluster.ts";
import { type Home, openHome } from "./embedded-home.ts";
import { Postmaster } from "./embedded-postmaster.ts";
import { socketPort } from "./embedded-socket.ts";

export interface EmbeddedPostgresOptions {
  /** Where everything of it lives; made when it is missing, on a local disk. */
  readonly dataDir: string;
  /** Receives what Postgres says and what is done about it, line by line. */
  readonly log: (line: string) => void;
  /** The account that root runs Postgres as (--database-user). Default: `postgres`, else a user namespace. */
  readonly user?: string | undefined;
  /** Postgres' bin/, lib/ and share/. Default: the installed platform package. */
  readonly nativeDir?: string | undefined;
}

/** How a client reaches the server; the fields are those of a `pg` configuration. */
export interface EmbeddedConnection {
  /** The directory of the unix socket. */
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly database: string;
}

/**
 * A real Postgres server of Steward's own: on a unix socket only, restarted when it ends by itself, and ended by the
 * kernel when Steward dies.
 */
export class EmbeddedPostgres {
  readonly #options: EmbeddedPostgresOptions;
  readonly #clock: Clock;
  #stopping = new AbortController();
  #started: Promise<void> | undefined;
  #kept: Promise<void> | undefined;
  #home: Home | undefined;
  #postmaster: Postmaster | undefined;

  constructor(options: EmbeddedPostgresOptions, clock: Clock = systemClock) {
    this.#options = options;
    this.#clock = clock;
  }

  /** Resolves when queries are accepted. Throws an Error that an operator can act on; then nothing is left running. */
  start(): Promise<void> {
    this.#started ??= this.#start();
    return this.#started;
  }

  /** Ends the server after everything is written; also in the middle of a start, which then fails. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#postmaster?.stop();
    await Promise.allSettled([this.#started]);
    await this.#kept;
    await this.#leave();
  }

  /** Stays the same over restarts. Throws when the server is not started. */
  get connection(): EmbeddedConnection {
    if (this.#home === undefined) throw new Error("the embedded Postgres is not started");
    return { host: this.#home.socket.host, port: socketPort, user: databaseName, database: databaseName };
  }

  /** The process id of the server while there is one. */
  get pid(): number | undefined {
    return this.#postmaster?.pid;
  }

  async #start(): Promise<void> {
    // The kernel signals the child when the thread that started it ends, and a worker may end early.
    if (!isMainThread) throw new Error("the embedded Postgres must be started from the main thread");
    this.#stopping = new AbortController();
    const { signal } = this.#stopping;
    try {
      const home = await openHome(this.#options, signal);
      this.#home = home;
      const first = await this.#launch(home, signal);
      this.#kept = this.#keep(home, first, signal);
    } catch (error) {
      await this.#leave();
      throw error;
    }
  }

  async #launch(home: Home, signal: AbortSignal): Promise<Postmaster> {
    const { log } = this.#options;
    await clearRemains(home.directory, log);
    signal.throwIfAborted();
    const postmaster = new Postmaster({ ...home, socketPath: home.socket.serverPath, log });
    this.#postmaster = postmaster;
    await postmaster.ready();
    return postmaster;
  }

  async #keep(home: Home, first: Postmaster, signal: AbortSignal): Promise<void> {
    let failures = 0;
    for (let current: Postmaster | undefined = first; current !== undefined; ) {
      const readyAtMs = this.#clock.monotonicMs();
      const how = await current.ended;
      if (signal.aborted) return;
      this.#options.log(`Postgres ended by itself (${how}); starting it again`);
      failures = this.#clock.monotonicMs() - readyAtMs >= stableAfterMs ? 0 : failures + 1;
      current = await this.#relaunch(home, failures, signal);
    }
  }

  async #relaunch(home: Home, failures: number, signal: AbortSignal): Promise<Postmaster | undefined> {
    for (let attempt = failures; !signal.aborted; attempt += 1) {
      await this.#pause(backOffMs(attempt), signal);
      try {
        return await this.#launch(home, signal);
      } catch (error) {
        if (!signal.aborted) this.#options.log(`Postgres did not start: ${String(error)}`);
      }
    }
    return undefined;
  }

  async #pause(delayMs: number, signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const cancel = this.#clock.after(delayMs, resolve);
    signal.addEventListener("abort", () => resolve(), { once: true });
    await promise;
    cancel();
  }

  async #leave(): Promise<void> {
    const home = this.#home;
    this.#home = undefined;
    this.#postmaster = undefined;
    this.#kept = undefined;
    this.#started = undefined;
    await home?.close();
  }
}

/**
 * The URL for `--database-url`, and for any other client that must reach the same server. The user is a parameter:
 * before an empty host, which stands for the socket, URL parsers refuse it.
 */
export function databaseUrl(connection: EmbeddedConnection): string {
  const host = encodeURIComponent(connection.host).replaceAll("%2F", "/");
  return `postgresql:///${connection.database}?user=${connection.user}&host=${host}&port=${connection.port}`;
}

const stableAfterMs = 10_000;

/** At once after the first failure in a while, then 0.1 s doubling to 10 s: a store that is away stops everything else. */
function backOffMs(failures: number): number {
  return failures === 0 ? 0 : Math.min(100 * 2 ** (failures - 1), 10_000);
}
