import type pg from "pg";
import type { ServiceSpec } from "../domain/service.ts";
import type { SpecRevision } from "../domain/spec-revision.ts";
import { decodeSpec, type Json } from "./json.ts";
import { type Queryable, query } from "./postgres.ts";

/** Reading the specs that services had. They are written with the events that change them. */
export class SpecRevisionRows {
  readonly #pool: pg.Pool;

  constructor(pool: pg.Pool) {
    this.#pool = pool;
  }

  /** Newest first, before the given revision. */
  async page(o: { serviceUid: string; before: bigint | undefined; limit: number }): Promise<SpecRevision[]> {
    const rows = await query<Omit<SpecRevision, "spec"> & { spec: Json<ServiceSpec> }>(
      this.#pool,
      `SELECT revision, time, actor, paths, spec FROM spec_revisions
        WHERE service_uid = $1 AND ($2::bigint IS NULL OR revision < $2) ORDER BY revision DESC LIMIT $3`,
      [o.serviceUid, o.before ?? null, o.limit],
      "spec revisions",
    );
    return rows.map((row) => ({ ...row, spec: decodeSpec(row.spec) }));
  }
}

/** The spec that a service was given by a transaction, if it is kept. */
export async function specAt(on: Queryable, serviceUid: string, revision: bigint): Promise<ServiceSpec | undefined> {
  const [row] = await query<{ spec: Json<ServiceSpec> }>(
    on,
    "SELECT spec FROM spec_revisions WHERE service_uid = $1 AND revision = $2",
    [serviceUid, revision],
    "spec at revision",
  );
  return row === undefined ? undefined : decodeSpec(row.spec);
}
