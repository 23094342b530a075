import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import { ask, type Queryable, query, sqlState, storeUnavailable, toAppError } from "./postgres.ts";

/** The last statement of a transaction. It may still be on its way: COMMIT is sent right behind it, so that its locks are not held for an answer. */
export interface LastStatement<T> {
  readonly answer: Promise<T>;
}

/** Thrown when COMMIT was sent and not answered: the transaction may be in the database or not. `outcomeOf` finds out. */
export class CommitUnanswered extends Error {
  override readonly name = "CommitUnanswered";
  /** What Postgres calls the transaction. */
  readonly xid: string;

  constructor(xid: string, cause: unknown) {
    super("the database did not answer the commit", { cause });
    this.xid = xid;
  }
}

/** Runs `work` in one transaction; what it throws rolls it back. */
export async function inTransaction<T>(pool: pg.Pool, work: (client: Queryable) => Promise<T>): Promise<T> {
  return withClient(pool, async (client) => {
    await query(client, "BEGIN");
    const value = await work(client);
    await query(client, "COMMIT");
    return value;
  });
}

/** Runs reads that are all true at one moment. */
export async function readTogether<T>(pool: pg.Pool, work: (client: Queryable) => Promise<T>): Promise<T> {
  return withClient(pool, async (client) => {
    await query(client, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    const value = await work(client);
    await query(client, "COMMIT");
    return value;
  });
}

/** Runs `work` in one transaction that is committed right behind its last statement. Throws CommitUnanswered. */
export async function committed<T>(pool: pg.Pool, work: (client: Queryable) => Promise<LastStatement<T>>): Promise<T> {
  return withClient(pool, async (client) => {
    // A server that freezes in the middle shall not keep everybody's counter locked.
    const begun = Promise.all([
      client.query({ text: "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '30s'" }),
      query<{ xid: string }>(client, "SELECT pg_current_xact_id()::text AS xid", [], "xid"),
    ]).catch((error: unknown) => Promise.reject(toAppError(error)));
    // If this fails, so does every other statement: the first one heard tells, and none is left alone.
    begun.catch(() => undefined);
    const last = await work(client);
    last.answer.catch(() => undefined);
    const [, [transaction]] = await begun;
    const [answer, commit] = await Promise.allSettled([last.answer, ask(client, { text: "COMMIT" })]);
    if (commit.status === "rejected") throw new CommitUnanswered(transaction?.xid ?? "", commit.reason);
    if (answer.status === "rejected") throw answer.reason;
    if (commit.value.command !== "COMMIT") throw new Error("the transaction was rolled back");
    return answer.value;
  });
}

/** Runs `work` in one transaction and takes everything back. */
export async function takenBack<T>(pool: pg.Pool, work: (client: Queryable) => Promise<T>): Promise<T> {
  return withClient(pool, async (client) => {
    await query(client, "BEGIN");
    const value = await work(client);
    await query(client, "ROLLBACK");
    return value;
  });
}

/**
 * Waits until a transaction whose COMMIT was not answered is not running any more, then looks for what it left; asks again while the database is
 * away and until the signal aborts. Postgres' own word on it is not enough: after a crash another transaction may have its number.
 * Throws `unavailable` if it does not get clear.
 */
export async function outcomeOf<T>(
  pool: pg.Pool,
  xid: string,
  look: (said: "committed" | "aborted") => Promise<T>,
  signal: AbortSignal,
): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    let failure: unknown;
    try {
      const said = await statusOf(pool, xid);
      if (said !== "in progress") return await look(said);
    } catch (error) {
      failure = error;
    }
    if (signal.aborted)
      throw storeUnavailable("the database does not answer; whether the change was written is not known", failure);
    await delay(Math.min(2_000, 50 * 2 ** attempt), undefined, { signal }).catch(() => undefined);
  }
}

/** Deadlocks and serialization failures are nobody's fault: the whole transaction is run again. */
export async function retried<T>(run: () => Promise<T>, onRetry = () => {}): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await run();
    } catch (error) {
      if (!["40001", "40P01"].includes(sqlState(error) ?? "")) throw error;
      if (attempt === 5) throw storeUnavailable("too many changes at once", error);
      onRetry();
      await delay(Math.random() * 20 * attempt);
    }
  }
}

async function statusOf(pool: pg.Pool, xid: string): Promise<"committed" | "aborted" | "in progress"> {
  try {
    const [row] = await query<{ status: string | null }>(pool, "SELECT pg_xact_status($1::xid8) AS status", [xid]);
    return row?.status === "committed" || row?.status === "in progress" ? row.status : "aborted";
  } catch (error) {
    // A number that has not been given out yet: the database crashed and has forgotten the transaction.
    if (sqlState(error) === "22023") return "aborted";
    throw error;
  }
}

/** Lends a connection. After a failure it is rolled back, or thrown away if it does not answer. */
async function withClient<T>(pool: pg.Pool, use: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await connected(pool);
  let broken: unknown;
  try {
    return await use(client);
  } catch (error) {
    broken = await client.query("ROLLBACK").then(
      () => undefined,
      (failure: unknown) => failure,
    );
    throw error;
  } finally {
    client.release(broken !== undefined);
  }
}

async function connected(pool: pg.Pool): Promise<pg.PoolClient> {
  try {
    return await pool.connect();
  } catch (error) {
    throw toAppError(error);
  }
}
