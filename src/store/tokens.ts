import type pg from "pg";
import { AppError } from "../domain/errors.ts";
import type { Token } from "../domain/token.ts";
import { type Queryable, query } from "./postgres.ts";

export interface NewToken extends Token {
  readonly digest: Buffer;
  /** The instance that it was generated for; it ends when the instance is replaced. */
  readonly instanceId?: string;
}

/** A token with what authentication needs of it and of its owner. */
export interface TokenWithOwner {
  readonly token: Token;
  readonly digest: Buffer;
  /** Whether the service that owns it is an admin; false for operators' tokens. */
  readonly ownerAdmin: boolean;
}

interface TokenRow {
  readonly id: string;
  readonly digest: Buffer;
  readonly service_uid: string | null;
  readonly service: string | null;
  readonly owner_admin: boolean | null;
  readonly hint: string;
  readonly scopes: string[];
  readonly note: string;
  readonly source: Token["source"];
  readonly created_by: string;
  readonly create_time: Date;
  readonly expire_time: Date | null;
  readonly revoke_time: Date | null;
  readonly last_used_time: Date | null;
  readonly replaced_by: string | null;
}

/** What every reading statement selects, with its FROM. */
const tokenColumns = `t.*, s.name AS service, (s.spec ->> 'admin')::boolean AS owner_admin
  FROM tokens t LEFT JOIN services s ON s.uid = t.service_uid`;

/** Reading tokens. */
export class TokenRows {
  readonly #pool: pg.Pool;

  constructor(pool: pg.Pool) {
    this.#pool = pool;
  }

  /** Everything that authentication needs: all tokens that may work, and those that ended lately, to say how. */
  async all(): Promise<TokenWithOwner[]> {
    const rows = await query<TokenRow>(
      this.#pool,
      `SELECT ${tokenColumns} WHERE COALESCE(t.revoke_time, t.expire_time, 'infinity') > now() - interval '7 days'`,
    );
    return rows.map(withOwner);
  }

  async ofService(serviceUid: string): Promise<TokenWithOwner[]> {
    const rows = await query<TokenRow>(
      this.#pool,
      `SELECT ${tokenColumns} WHERE t.service_uid = $1`,
      [serviceUid],
      "tokens of service",
    );
    return rows.map(withOwner);
  }

  async byId(id: string): Promise<TokenWithOwner | undefined> {
    const [row] = await query<TokenRow>(this.#pool, `SELECT ${tokenColumns} WHERE t.id = $1`, [id], "token by id");
    return row === undefined ? undefined : withOwner(row);
  }

  /** Newest first, after the given place. */
  async page(o: {
    serviceUid: string | undefined;
    showEnded: boolean;
    after: { time: Date; id: string } | undefined;
    limit: number;
  }): Promise<Token[]> {
    const rows = await query<TokenRow>(
      this.#pool,
      `SELECT ${tokenColumns}
        WHERE ($1::uuid IS NULL OR t.service_uid = $1)
          AND ($2 OR (t.revoke_time IS NULL AND COALESCE(t.expire_time, 'infinity') > now()))
          AND ($3::timestamptz IS NULL OR (t.create_time, t.id) < ($3, $4::uuid))
        ORDER BY t.create_time DESC, t.id DESC LIMIT $5`,
      [o.serviceUid ?? null, o.showEnded, o.after?.time ?? null, o.after?.id ?? null, o.limit],
    );
    return rows.map(decodeToken);
  }

  /** Notes when tokens were last used; at most one write for a token in five minutes. */
  async noteUse(uses: ReadonlyMap<string, Date>): Promise<void> {
    await query(
      this.#pool,
      `UPDATE tokens t SET last_used_time = u.at FROM unnest($1::uuid[], $2::timestamptz[]) AS u (id, at)
        WHERE t.id = u.id AND (t.last_used_time IS NULL OR t.last_used_time < u.at - interval '5 minutes')`,
      [[...uses.keys()], [...uses.values()]],
    );
  }
}

/**
 * Inserts a token. One that a client supplied may come back after it was revoked: it then takes the place of what it was.
 * Throws already_exists TOKEN_IN_USE.
 */
export async function insertToken(on: Queryable, token: NewToken): Promise<void> {
  const inserted = await query(
    on,
    `INSERT INTO tokens AS t (id, digest, service_uid, instance_id, hint, scopes, note, source, created_by, create_time, expire_time)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
     ON CONFLICT ON CONSTRAINT tokens_digest_unique DO UPDATE SET id = EXCLUDED.id, service_uid = EXCLUDED.service_uid,
       instance_id = EXCLUDED.instance_id, hint = EXCLUDED.hint, scopes = EXCLUDED.scopes, note = EXCLUDED.note,
       created_by = EXCLUDED.created_by, create_time = EXCLUDED.create_time, expire_time = EXCLUDED.expire_time,
       revoke_time = NULL, last_used_time = NULL, replaced_by = NULL
       WHERE t.source = 'supplied' AND t.revoke_time IS NOT NULL AND EXCLUDED.source = 'supplied'
     RETURNING 1`,
    valuesOf(token),
    "insert token",
  );
  if (inserted.length === 0) throw tokenInUse();
}

/** Inserts the token of a new instance; those of earlier instances of its service are revoked as of its beginning. */
export async function replaceInstanceToken(on: Queryable, token: NewToken): Promise<void> {
  await query(
    on,
    `WITH replaced AS (UPDATE tokens SET revoke_time = $10 WHERE service_uid = $3 AND source = 'instance' AND revoke_time IS NULL)
     INSERT INTO tokens (id, digest, service_uid, instance_id, hint, scopes, note, source, created_by, create_time, expire_time)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
    valuesOf(token),
    "replace instance token",
  );
}

function valuesOf(token: NewToken): unknown[] {
  return [
    token.id,
    token.digest,
    token.service?.uid ?? null,
    token.instanceId ?? null,
    token.hint,
    token.scopes,
    token.note,
    token.source,
    token.createdBy,
    token.createTime,
    token.expireTime ?? null,
  ];
}

export async function updateToken(
  on: Queryable,
  id: string,
  patch: { expireTime?: Date; revokeTime?: Date; replacedBy?: string },
): Promise<void> {
  await query(
    on,
    "UPDATE tokens SET expire_time = COALESCE($2, expire_time), revoke_time = COALESCE($3, revoke_time), replaced_by = COALESCE($4, replaced_by) WHERE id = $1",
    [id, patch.expireTime ?? null, patch.revokeTime ?? null, patch.replacedBy ?? null],
  );
}

/** Finds a token and locks it. */
export async function lockToken(on: Queryable, id: string): Promise<Token | undefined> {
  const [row] = await query<TokenRow>(on, `SELECT ${tokenColumns} WHERE t.id = $1 FOR UPDATE OF t`, [id]);
  return row === undefined ? undefined : decodeToken(row);
}

/** Ends the tokens of a service at once, all or those of one source; returns their ids. */
export async function revokeTokens(
  on: Queryable,
  serviceUid: string,
  at: Date,
  source: Token["source"] | undefined,
): Promise<string[]> {
  const rows = await query<{ id: string }>(
    on,
    "UPDATE tokens SET revoke_time = $2 WHERE service_uid = $1 AND revoke_time IS NULL AND ($3::text IS NULL OR source = $3) RETURNING id",
    [serviceUid, at, source ?? null],
    "revoke tokens",
  );
  return rows.map(({ id }) => id);
}

function decodeToken(row: TokenRow): Token {
  return {
    id: row.id,
    service: row.service_uid === null || row.service === null ? undefined : { name: row.service, uid: row.service_uid },
    hint: row.hint,
    scopes: row.scopes,
    note: row.note,
    source: row.source,
    createdBy: row.created_by,
    createTime: row.create_time,
    expireTime: row.expire_time ?? undefined,
    revokeTime: row.revoke_time ?? undefined,
    lastUsedTime: row.last_used_time ?? undefined,
    replacedBy: row.replaced_by ?? undefined,
  };
}

function withOwner(row: TokenRow): TokenWithOwner {
  return { token: decodeToken(row), digest: row.digest, ownerAdmin: row.owner_admin ?? false };
}

function tokenInUse(): AppError {
  const description = "is in use by another service; every service needs a token of its own";
  return new AppError("already_exists", "TOKEN_IN_USE", `api_token: ${description}`, {
    violations: [{ field: "service.spec.api_token", description }],
  });
}
