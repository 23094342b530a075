import { type Queryable, query } from "./postgres.ts";

/** Which request of which caller. */
export interface RequestKey {
  readonly principal: string;
  readonly method: string;
  readonly requestId: string;
}

export interface RememberedRequest {
  readonly hash: string;
  /** Undefined while the request that came first is not done; never seen, because the second one waits for it. */
  readonly response: Buffer | undefined;
}

/**
 * Claims a request id, or finds who had it first; of two at once the second waits until the first is committed or rolled back.
 * An expired claim is taken over.
 */
export async function claimRequest(
  on: Queryable,
  key: RequestKey,
  hash: string,
  expireTime: Date,
): Promise<RememberedRequest | undefined> {
  const claimed = await query(
    on,
    `INSERT INTO requests (principal, method, request_id, hash, expire_time) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (principal, method, request_id) DO UPDATE SET hash = EXCLUDED.hash, response = NULL, expire_time = EXCLUDED.expire_time
       WHERE requests.expire_time < now() RETURNING 1`,
    [key.principal, key.method, key.requestId, hash, expireTime],
    "claim request",
  );
  if (claimed.length > 0) return undefined;
  const [row] = await query<{ hash: string; response: Buffer | null }>(
    on,
    "SELECT hash, response FROM requests WHERE principal = $1 AND method = $2 AND request_id = $3",
    [key.principal, key.method, key.requestId],
    "recall request",
  );
  return row === undefined ? undefined : { hash: row.hash, response: row.response ?? undefined };
}

export async function rememberResponse(on: Queryable, key: RequestKey, response: Buffer): Promise<void> {
  await query(
    on,
    "UPDATE requests SET response = $4 WHERE principal = $1 AND method = $2 AND request_id = $3",
    [key.principal, key.method, key.requestId, response],
    "remember response",
  );
}
