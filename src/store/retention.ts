import type pg from "pg";
import type { Logger } from "pino";
import { inTransaction } from "./commit.ts";
import { query } from "./postgres.ts";

export interface RetentionOptions {
  readonly pool: pg.Pool;
  readonly log: Logger;
  /** Default: 10 minutes. */
  readonly everyMs?: number;
}

export interface Kept {
  /** Every event of so many days is kept. */
  readonly days: number;
  /** And of each service that there is so many, however old they are. */
  readonly eventsOfService: number;
  /** The same for its ended instances. */
  readonly instancesOfService: number;
}

const defaultKept: Kept = { days: 7, eventsOfService: 1_000, instancesOfService: 100 };

/** So many revisions are gone through in one transaction: writers wait for its end at most once, and not long. */
const revisionsAtOnce = 1_000n;

/** Forgets from time to time what no promise covers any more. */
export class Retention {
  readonly #options: RetentionOptions;
  readonly #stopping = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> = Promise.resolve();

  constructor(options: RetentionOptions) {
    this.#options = options;
  }

  start(): void {
    if (this.#stopping.signal.aborted) return;
    this.#timer = setInterval(() => this.#turn(), this.#options.everyMs ?? 600_000);
    this.#timer.unref();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    clearInterval(this.#timer);
    await this.#running;
  }

  #turn(): void {
    const { pool, log } = this.#options;
    this.#running = this.#running
      .then(() => compact(pool, { signal: this.#stopping.signal }))
      .catch((error: unknown) => log.warn({ err: error }, "old events could not be removed; trying again later"));
  }
}

/**
 * Raises `compacted` to just below the first event of the kept days: up to there the log has gaps from now on, and readers are sent away. Then
 * deletes, in small transactions, what is older and not among the last events of a service that there is. Several servers may do it at once.
 */
export async function compact(
  pool: pg.Pool,
  { signal, kept = defaultKept }: { signal?: AbortSignal; kept?: Kept } = {},
): Promise<void> {
  await query(pool, raiseCompacted, [kept.days]);
  for (let more = true; more; ) more = signal?.aborted !== true && (await sweep(pool, kept));
  for (const { statement, values } of [
    { statement: removeInstances, values: [kept.days, kept.instancesOfService] },
    { statement: removeTokens, values: [kept.days] },
    { statement: removeRequests, values: [] },
  ]) {
    for (let more = true; more; ) more = signal?.aborted !== true && (await query(pool, statement, values)).length > 0;
  }
}

/** Deletes up to the next revisions; returns whether there is more to do. */
async function sweep(pool: pg.Pool, { eventsOfService }: Kept): Promise<boolean> {
  return inTransaction(pool, async (client) => {
    const [store] = await query<{ swept: bigint; compacted: bigint }>(client, "SELECT swept, compacted FROM store");
    if (store === undefined || store.swept >= store.compacted) return false;
    const end = store.swept + revisionsAtOnce;
    const upTo = end < store.compacted ? end : store.compacted;
    await query(client, removeServicesEvents, [store.swept, upTo, eventsOfService]);
    await query(client, "DELETE FROM events WHERE revision > $1 AND revision <= $2 AND service_uid IS NULL", [
      store.swept,
      upTo,
    ]);
    await query(client, "UPDATE store SET swept = GREATEST(swept, $1)", [upTo]);
    return upTo < store.compacted;
  });
}

/** Reads only what is passed over: revisions are nearly in the order of time. */
const raiseCompacted = `
  UPDATE store SET compacted = GREATEST(compacted, horizon.revision) FROM (
    SELECT COALESCE(
      (SELECT e.revision - 1 FROM events e, store s
        WHERE e.revision > s.compacted AND e.time > now() - make_interval(days => $1) ORDER BY e.revision LIMIT 1),
      (SELECT head FROM store)) AS revision) AS horizon
  WHERE horizon.revision > compacted`;

/**
 * A service loses an old event only when a newer one passes the horizon: so the services of the events that pass it now are all there is to look
 * at. A service that is gone keeps none.
 */
const removeServicesEvents = `
  WITH passing AS (
    SELECT DISTINCT service_uid AS uid FROM events WHERE revision > $1 AND revision <= $2 AND service_uid IS NOT NULL
  ), bounds AS (
    SELECT p.uid, CASE WHEN EXISTS (SELECT FROM services s WHERE s.uid = p.uid)
      THEN COALESCE((SELECT e.revision FROM events e WHERE e.service_uid = p.uid ORDER BY e.revision DESC OFFSET $3 - 1 LIMIT 1), 0)
      ELSE $2 + 1 END AS first_kept
    FROM passing p
  )
  DELETE FROM events e USING bounds b WHERE e.service_uid = b.uid AND e.revision <= $2 AND e.revision < b.first_kept`;

const removeInstances = `
  WITH many AS (
    SELECT service_uid AS uid FROM instances GROUP BY service_uid HAVING count(*) > $2
  ), bounds AS (
    SELECT m.uid, (SELECT i.create_time FROM instances i WHERE i.service_uid = m.uid
                    ORDER BY i.create_time DESC, i.id DESC OFFSET $2 - 1 LIMIT 1) AS first_kept
      FROM many m
  )
  DELETE FROM instances WHERE id IN (
    SELECT i.id FROM instances i LEFT JOIN bounds b ON b.uid = i.service_uid
     WHERE i.state = 'ended' AND i.create_time < now() - make_interval(days => $1)
       AND (i.create_time < b.first_kept OR NOT EXISTS (SELECT FROM services s WHERE s.uid = i.service_uid))
     LIMIT 1000)
  RETURNING 1`;

const removeTokens = `
  DELETE FROM tokens WHERE id IN (
    SELECT id FROM tokens WHERE LEAST(revoke_time, expire_time) < now() - make_interval(days => $1) LIMIT 1000)
  RETURNING 1`;

const removeRequests = `
  DELETE FROM requests WHERE (principal, method, request_id) IN (
    SELECT principal, method, request_id FROM requests WHERE expire_time < now() LIMIT 1000)
  RETURNING 1`;
