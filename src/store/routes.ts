import type pg from "pg";
import type { Route } from "../domain/route.ts";
import { nameKey } from "../domain/service-name.ts";
import { decodeRouteRow, factText, type RouteRow } from "./json.ts";
import { type Queryable, query } from "./postgres.ts";

/** Reading routes. */
export class RouteRows {
  readonly #pool: pg.Pool;

  constructor(pool: pg.Pool) {
    this.#pool = pool;
  }

  /** By service name, after the given one. */
  async page(o: { afterService: string | undefined; limit: number }): Promise<Route[]> {
    const rows = await query<RouteRow>(
      this.#pool,
      `SELECT service_uid, service, prefix, target, state, generation::int, programmed_generation::int, proxy, reason, message, transition_time, confirm_time
         FROM routes WHERE $1::text IS NULL OR lower(service COLLATE "C") > $1 ORDER BY lower(service COLLATE "C") LIMIT $2`,
      [o.afterService === undefined ? null : nameKey(o.afterService), o.limit],
    );
    return rows.map(decodeRouteRow);
  }
}

/** Inserts the route of a service, or replaces it. */
export async function saveRoute(on: Queryable, route: Route): Promise<void> {
  await query(
    on,
    `INSERT INTO routes (service_uid, service, prefix, target, state, generation, programmed_generation, proxy, reason, message, transition_time, confirm_time)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
     ON CONFLICT (service_uid) DO UPDATE SET prefix = EXCLUDED.prefix, target = EXCLUDED.target, state = EXCLUDED.state,
       generation = EXCLUDED.generation, programmed_generation = EXCLUDED.programmed_generation, proxy = EXCLUDED.proxy,
       reason = EXCLUDED.reason, message = EXCLUDED.message, transition_time = EXCLUDED.transition_time, confirm_time = EXCLUDED.confirm_time`,
    [
      route.serviceUid,
      route.service,
      route.prefix,
      route.target,
      route.state,
      route.generation,
      route.programmedGeneration,
      route.proxy,
      route.reason,
      factText(route.message),
      route.transitionTime,
      route.confirmTime ?? null,
    ],
    "save route",
  );
}

export async function removeRoute(on: Queryable, serviceUid: string): Promise<void> {
  await query(on, "DELETE FROM routes WHERE service_uid = $1", [serviceUid], "remove route");
}
