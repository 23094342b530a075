import { AsyncResource } from "node:async_hooks";
import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import type { Logger } from "pino";
import { Registry } from "prom-client";
import type { Event } from "../domain/event.ts";
import type { Service } from "../domain/service.ts";
import { CommitUnanswered, committed, outcomeOf, retried, takenBack } from "./commit.ts";
import { EventRows } from "./events.ts";
import { FactRecorder } from "./facts.ts";
import { headOf, lostRow } from "./head.ts";
import { InstanceRows } from "./instances.ts";
import { type StoreFigures, StoreMetrics } from "./metrics.ts";
import { migrate } from "./migrate.ts";
import { createPool, isUnavailable, type Queryable, query, storeUnavailable } from "./postgres.ts";
import { Retention } from "./retention.ts";
import { RouteRows } from "./routes.ts";
import { ServiceRows } from "./services.ts";
import { SlowStatements } from "./slow-statements.ts";
import { SpecRevisionRows } from "./spec-revisions.ts";
import { TokenRows } from "./tokens.ts";
import { type Appended, Transaction } from "./transaction.ts";
import { Wakeups } from "./wakeups.ts";

export interface StoreOptions {
  readonly connection: pg.PoolConfig;
  /** The name of this node, noted with every event. */
  readonly node: string;
  readonly log: Logger;
  /** How long to wait at the start for a database that is away. Default 30 s. */
  readonly startTimeoutMs?: number;
  /** From what time on a statement is slow, so that the log tells of it. Default 0: none is. */
  readonly slowStatementMs?: number;
  /** Where its metrics are told. */
  readonly registry?: Registry;
}

export interface Written<T> {
  readonly value: T;
  /** The new revision; the newest one if nothing was appended; 0 of a dry run. */
  readonly revision: bigint;
  /** The changed services right after the transaction, by uid; empty of a dry run, and where they were not asked for. */
  readonly services: ReadonlyMap<string, Service>;
}

export interface WriteOptions<T> {
  readonly dryRun?: boolean;
  /** Whether the changed services are asked for: reading them is half the cost of a small write. Default: yes. */
  readonly withServices?: boolean;
  readonly beforeCommit?: (tx: Transaction, written: Written<T>) => Promise<void>;
  /** Until when to find out about a commit that was not answered. Default: 5 s from then. */
  readonly settling?: AbortSignal;
}

const settleMs = 5_000;

/** Everything Postgres. One write is one transaction is one revision. */
export class Store {
  readonly services: ServiceRows;
  readonly specRevisions: SpecRevisionRows;
  readonly tokens: TokenRows;
  readonly instances: InstanceRows;
  readonly routes: RouteRows;
  readonly events: EventRows;
  readonly facts: FactRecorder;
  readonly wakeups: Wakeups;
  readonly #pool: pg.Pool;
  readonly #metrics: StoreMetrics;
  readonly #retention: Retention;
  readonly #options: StoreOptions;
  readonly #stopping = new AbortController();
  #storeUid = "";
  #ended: Promise<void> | undefined;

  constructor(options: StoreOptions) {
    const { connection, log } = options;
    this.#options = options;
    const watch = new SlowStatements({ log, slowMs: options.slowStatementMs ?? 0 });
    // A connection is opened by some call and outlives it: its end is told outside of every call.
    const onIdleError = AsyncResource.bind((error: Error) =>
      log.warn({ err: error }, "an idle database connection ended"),
    );
    this.#pool = createPool(connection, { onIdleError, watch });
    this.services = new ServiceRows(this.#pool);
    this.specRevisions = new SpecRevisionRows(this.#pool);
    this.tokens = new TokenRows(this.#pool);
    this.instances = new InstanceRows(this.#pool);
    this.routes = new RouteRows(this.#pool);
    this.events = new EventRows(this.#pool);
    this.facts = new FactRecorder(this);
    this.wakeups = new Wakeups({ connection, log });
    this.#retention = new Retention({ pool: this.#pool, log });
    this.#metrics = new StoreMetrics(options.registry ?? new Registry(), this.#figures(watch));
  }

  /** Names the store that revisions belong to; a restored or new store has another. */
  get storeUid(): string {
    return this.#storeUid;
  }

  /** Resolves when the schema is up to date. A database that is away is waited for; throws `unavailable` when that takes too long. */
  async start(): Promise<void> {
    await this.#whenThere(() => migrate(this.#options.connection));
    const [row] = await query<{ store_uid: string }>(this.#pool, "SELECT store_uid FROM store");
    if (row === undefined) throw lostRow();
    this.#storeUid = row.store_uid;
    await this.wakeups.start();
    this.#retention.start();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#ended ??= this.#end();
    await this.#ended;
  }

  /**
   * Runs `work` in one transaction and commits it with its events; a dry run takes everything back at the end. `beforeCommit` may note what came
   * of it in the same transaction: the counter is locked meanwhile, so it must be short. Work may be run again after a deadlock.
   */
  async write<T>(work: (tx: Transaction) => Promise<T>, options: WriteOptions<T> = {}): Promise<Written<T>> {
    if (options.dryRun === true) return retried(() => this.#tryOut(work));
    return this.#metrics.timed((onRetry) => retried(() => this.#write(work, options), onRetry));
  }

  /** Throws `unavailable` unless the database answers. */
  async ping(): Promise<void> {
    await query(this.#pool, "SELECT 1");
  }

  #figures(statements: SlowStatements): StoreFigures {
    const { events, facts, wakeups } = this;
    const pool = this.#pool;
    return {
      get connections() {
        return pool.totalCount;
      },
      get idleConnections() {
        return pool.idleCount;
      },
      mostConnections: pool.options.max,
      get waitingForConnection() {
        return pool.waitingCount;
      },
      get isListening() {
        return wakeups.isListening;
      },
      get listenerReconnects() {
        return wakeups.reconnects;
      },
      get notifications() {
        return wakeups.notifications;
      },
      get slowStatements() {
        return statements.count;
      },
      get waitingFacts() {
        return facts.waiting;
      },
      bounds: () => events.bounds(),
    };
  }

  async #tryOut<T>(work: (tx: Transaction) => Promise<T>): Promise<Written<T>> {
    const value = await takenBack(this.#pool, (client) => work(new Transaction(client)));
    return { value, revision: 0n, services: new Map() };
  }

  async #write<T>(work: (tx: Transaction) => Promise<T>, options: WriteOptions<T>): Promise<Written<T>> {
    let done: { readonly value: T; readonly tx: Transaction } | undefined;
    try {
      return await committed(this.#pool, async (client) => {
        const tx = new Transaction(client);
        const value = await work(tx);
        done = { value, tx };
        const answer = this.#close(client, tx, value, options.withServices ?? true);
        if (options.beforeCommit !== undefined) await options.beforeCommit(tx, await answer);
        return { answer };
      });
    } catch (error) {
      if (!(error instanceof CommitUnanswered) || done === undefined) throw error;
      return { value: done.value, ...(await this.#settle(error, done.tx, options.settling)) };
    }
  }

  async #close<T>(client: Queryable, tx: Transaction, value: T, withServices: boolean): Promise<Written<T>> {
    const appended = await tx.close(this.#options.node, withServices);
    return appended === undefined
      ? { value, revision: await headOf(client), services: new Map() }
      : { value, ...appended };
  }

  /** What a transaction has written, if it did: telling a caller that it failed would make them do it twice. */
  async #settle(
    { xid, cause }: CommitUnanswered,
    tx: Transaction,
    settling = AbortSignal.timeout(settleMs),
  ): Promise<Appended> {
    const look = async (said: "committed" | "aborted") => {
      if (!tx.hasEvents)
        return said === "committed" ? { revision: await headOf(this.#pool), services: new Map() } : undefined;
      return appendedBy(await this.events.ofTransaction(tx.mark));
    };
    const appended = await outcomeOf(this.#pool, xid, look, settling);
    if (appended === undefined) throw storeUnavailable("the database does not answer", cause);
    return appended;
  }

  async #whenThere(run: () => Promise<void>): Promise<void> {
    const deadline = performance.now() + (this.#options.startTimeoutMs ?? 30_000);
    for (;;) {
      try {
        return await run();
      } catch (error) {
        if (!isUnavailable(error) || performance.now() > deadline || this.#stopping.signal.aborted) throw error;
        this.#options.log.warn({ err: error }, "the database does not answer yet; trying again");
        await delay(500, undefined, { signal: this.#stopping.signal }).catch(() => undefined);
      }
    }
  }

  async #end(): Promise<void> {
    await this.#retention.stop();
    await this.facts.stop();
    await this.wakeups.stop();
    await this.#pool.end();
  }
}

/** Undefined: there are no such events. */
function appendedBy(events: readonly Event[]): Appended | undefined {
  const [first] = events;
  if (first === undefined) return undefined;
  const services = events.flatMap(({ body, after }) =>
    after === undefined || body.type === "service_deleted" ? [] : [[after.uid, after] as const],
  );
  return { revision: first.revision, services: new Map(services) };
}
