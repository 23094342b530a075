import pg from "pg";
import { AppError } from "../domain/errors.ts";

/** Whoever runs SQL: the pool, or one connection in a transaction. */
export interface Queryable {
  query<R extends pg.QueryResultRow>(query: {
    text: string;
    name?: string;
    values?: readonly unknown[];
  }): Promise<{ rows: R[]; command: string }>;
  readonly watch?: StatementWatch;
}

/** Hears of every statement how long its answer took. */
export interface StatementWatch {
  /** `statement` is its name, or its text with the places of its values. */
  finished(statement: string, durationMs: number): void;
}

const int8 = 20;

/** int8 values are bigints; where a count cannot grow beyond a number, the reading function says so. */
const types: pg.CustomTypesConfig = {
  getTypeParser: (oid: number, format?: "text" | "binary") =>
    oid === int8
      ? (text: string) => BigInt(text)
      : format === "binary"
        ? pg.types.getTypeParser(oid, "binary")
        : pg.types.getTypeParser(oid, "text"),
};

/** Statements are sent without waiting for the answer to the one before; they are carried out in order. */
export function createPool(
  connection: pg.PoolConfig,
  { onIdleError, watch }: { readonly onIdleError: (error: Error) => void; readonly watch?: StatementWatch },
): pg.Pool {
  const pool = new pg.Pool({
    max: 12,
    connectionTimeoutMillis: 5_000,
    // A connection that is only half open would otherwise keep its caller forever.
    query_timeout: 30_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    application_name: "steward",
    ...connection,
    pipeline: true,
    types,
  });
  // Dates are read in one form, whatever the database's default is. If this fails, so does the statement that comes behind it.
  pool.on("connect", (client) => void client.query("SET DateStyle = 'ISO'").catch(() => undefined));
  // A connection that dies while nobody uses it must not take the process down; the next query gets another.
  pool.on("error", (error) => {
    // It comes with the whole connection, which nobody wants to read in a log.
    Reflect.deleteProperty(error, "client");
    onIdleError(error);
  });
  // One that dies in use fails its queries. It may do so in the same packet in which it began, before whoever asked for it can listen.
  pool.on("connect", (client) => client.on("error", () => undefined));
  pool.on("connect", (client) => Object.assign(client, { watch }));
  return Object.assign(pool, { watch });
}

/**
 * Runs one statement; what the database's absence throws becomes `unavailable`. Named statements are planned once for each connection.
 * Sent before it returns: callers may start several, and wait for all of them.
 */
export async function query<R extends pg.QueryResultRow>(
  on: Queryable,
  text: string,
  values: readonly unknown[] = [],
  name?: string,
): Promise<R[]> {
  const { rows } = await ask<R>(on, name === undefined ? { text, values } : { text, name, values });
  return rows;
}

/** The same, with the whole answer. */
export async function ask<R extends pg.QueryResultRow>(
  on: Queryable,
  statement: { readonly text: string; readonly name?: string; readonly values?: readonly unknown[] },
): Promise<{ rows: R[]; command: string }> {
  const startMs = performance.now();
  try {
    return await on.query<R>({ ...statement, values: [...(statement.values ?? [])] });
  } catch (error) {
    throw toAppError(error);
  } finally {
    on.watch?.finished(statement.name ?? statement.text, performance.now() - startMs);
  }
}

/** The SQLSTATE of a statement that failed. */
export function sqlState(error: unknown): string | undefined {
  const cause = error instanceof AppError ? error.cause : error;
  return cause instanceof pg.DatabaseError ? cause.code : undefined;
}

/** The constraint that a unique violation broke. */
export function brokenConstraint(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError && error.code === "23505" ? error.constraint : undefined;
}

/** Whether an error says that the database is away, and not that a statement is wrong. */
export function isUnavailable(error: unknown): boolean {
  return error instanceof AppError && error.reason === "STORE_UNAVAILABLE";
}

export function storeUnavailable(message: string, cause: unknown): AppError {
  return new AppError("unavailable", "STORE_UNAVAILABLE", message, { retryAfterMs: 1_000, cause });
}

export function toAppError(error: unknown): unknown {
  if (error instanceof AppError) return error;
  if (isAbsence(error)) return storeUnavailable("the database does not answer", error);
  if (isUnstorable(error)) {
    return new AppError("invalid_argument", "VALIDATION_FAILED", "text must not contain NUL or unpaired surrogates", {
      cause: error,
    });
  }
  return error;
}

/** Whether a text has a character that Postgres cannot store: no other value of ours can fail so. */
function isUnstorable(error: unknown): boolean {
  if (!(error instanceof pg.DatabaseError)) return false;
  // Half of a surrogate pair is refused as JSON that cannot be read, in the language of the server.
  return ["22P05", "22021"].includes(error.code ?? "") || (error.code === "22P02" && /\bjson\b/.test(error.message));
}

const absentErrno = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "ECONNABORTED",
  "ENOENT",
  "EPIPE",
  "ETIMEDOUT",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EAGAIN",
  "EMFILE",
]);

/**
 * The SQLSTATEs of a database that is away, starting, stopping, full, out of memory, cut off in the middle (25P03) or a standby that cannot
 * be written (25006).
 */
const absentState = /^(08|53|57P0[1-5]|57014|58|25P03|25006)/;

const absentMessage =
  /^(Connection terminated|timeout exceeded when trying to connect|Query read timeout|Cannot use a pool after)|is not queryable$/;

function isAbsence(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if (error instanceof pg.DatabaseError) return absentState.test(error.code ?? "");
  if ("code" in error && typeof error.code === "string" && absentErrno.has(error.code)) return true;
  return absentMessage.test(error.message);
}
