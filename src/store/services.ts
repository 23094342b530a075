import type pg from "pg";
import { invalid } from "../domain/errors.ts";
import type { Service, ServiceSpec, Wish } from "../domain/service.ts";
import { nameKey, serviceExists } from "../domain/service-name.ts";
import type { Place } from "../domain/service-order.ts";
import type { ServiceStatus } from "../domain/status.ts";
import { AskedTogether } from "./asked-together.ts";
import { readTogether } from "./commit.ts";
import { headOf, lostRow } from "./head.ts";
import { decodeService, factJson, type ServiceImage } from "./json.ts";
import { brokenConstraint, type Queryable, query } from "./postgres.ts";
import { type PageQuery, pageStatement } from "./service-page.ts";

export interface NewService {
  readonly name: string;
  readonly uid: string;
  readonly spec: ServiceSpec;
  readonly apiTokenSealed: Buffer | undefined;
  readonly setName: string;
  readonly wish: Wish;
  readonly status: ServiceStatus;
}

export interface ServicePatch {
  readonly spec?: ServiceSpec;
  /** null takes it away. */
  readonly apiTokenSealed?: Buffer | null;
  readonly wish?: Wish;
  readonly generation?: number;
  readonly resets?: number;
  /** Given with what clients change; it also sets the time of the update. A status carries its times itself. */
  readonly version?: number;
  readonly setName?: string;
  readonly status?: ServiceStatus;
}

/** Reading services, each answer with the revision that it is true at. */
export class ServiceRows {
  readonly #pool: pg.Pool;
  readonly #asked = new AskedTogether((names: readonly (string | undefined)[]) => this.#byNames(names));

  constructor(pool: pg.Pool) {
    this.#pool = pool;
  }

  async byName(name: string): Promise<{ service: Service | undefined; revision: bigint }> {
    return this.#asked.ask(name);
  }

  /** The newest revision there is, no older than the question. Asked for together with services by name: it costs next to nothing. */
  async head(): Promise<bigint> {
    const { revision } = await this.#asked.ask(undefined);
    return revision;
  }

  /** Those that match, in order, each with its place in it. */
  async page(o: PageQuery): Promise<{ services: { service: Service; place: Place }[]; revision: bigint }> {
    const { text, values } = pageStatement(o);
    const rows = await query<{ head: bigint; image: ServiceImage | null; place: Place }>(this.#pool, text, values);
    return {
      services: rows.flatMap(({ image, place }) => (image === null ? [] : [{ service: decodeService(image), place }])),
      revision: rows[0]?.head ?? 0n,
    };
  }

  /** All services by name, and the revision that they are true at together. */
  async snapshot(): Promise<{ services: Service[]; revision: bigint }> {
    return readTogether(this.#pool, async (client) => {
      const revision = await headOf(client);
      const rows = await query<{ image: ServiceImage }>(
        client,
        "SELECT service_image(s) AS image FROM services s ORDER BY s.name_key",
      );
      return { services: rows.map(({ image }) => decodeService(image)), revision };
    });
  }

  /** A service and those it depends on, directly or through others, as far as they are there. In no order. */
  async withDependencies(name: string): Promise<{ services: Service[]; revision: bigint }> {
    const rows = await query<{ head: bigint; image: ServiceImage | null }>(
      this.#pool,
      `WITH RECURSIVE needed (name_key) AS (
         SELECT $1::text COLLATE "C"
         UNION
         SELECT lower((d ->> 'service') COLLATE "C") FROM needed JOIN services s USING (name_key), jsonb_array_elements(s.spec #> '{kind,dependsOn}') d
       )
       SELECT head, p.image FROM store LEFT JOIN LATERAL
         (SELECT service_image(s) AS image FROM services s JOIN needed USING (name_key)) p ON true`,
      [nameKey(name)],
      "service with dependencies",
    );
    return {
      services: rows.flatMap(({ image }) => (image === null ? [] : [decodeService(image)])),
      revision: rows[0]?.head ?? 0n,
    };
  }

  async sealedApiToken(uid: string): Promise<Buffer | undefined> {
    return sealedApiToken(this.#pool, uid);
  }

  async #byNames(
    names: readonly (string | undefined)[],
  ): Promise<(name: string | undefined) => { service: Service | undefined; revision: bigint }> {
    const keys = names.flatMap((name) => (name === undefined ? [] : nameKey(name)));
    if (keys.length === 0) {
      const revision = await headOf(this.#pool);
      return () => ({ service: undefined, revision });
    }
    const rows = await query<{ head: bigint; image: ServiceImage | null }>(
      this.#pool,
      `SELECT head, p.image FROM store LEFT JOIN LATERAL
         (SELECT service_image(s) AS image FROM services s WHERE s.name_key = ANY ($1)) p ON true`,
      [keys],
      "services by name",
    );
    const [first] = rows;
    if (first === undefined) throw lostRow();
    const found = rows.flatMap(({ image }) => (image === null ? [] : [decodeService(image)]));
    const services = new Map(found.map((service) => [service.name, service]));
    return (name) => ({ service: name === undefined ? undefined : services.get(name), revision: first.head });
  }
}

/** The api_token that a client supplied, sealed. */
export async function sealedApiToken(on: Queryable, uid: string): Promise<Buffer | undefined> {
  const [row] = await query<{ sealed: Buffer | null }>(
    on,
    "SELECT api_token_sealed AS sealed FROM services WHERE uid = $1",
    [uid],
    "sealed api token",
  );
  return row?.sealed ?? undefined;
}

/** Finds a service by its key; locked, nobody else changes it until the transaction ends. */
export async function findService(
  on: Queryable,
  column: "uid" | "name_key",
  value: string,
  lock: boolean,
): Promise<Service | undefined> {
  const [row] = await query<{ image: ServiceImage }>(
    on,
    `SELECT service_image(s) AS image FROM services s WHERE s.${column} = $1${lock ? " FOR UPDATE" : ""}`,
    [value],
    `service by ${column}${lock ? ", locked" : ""}`,
  );
  return row === undefined ? undefined : decodeService(row.image);
}

/** What tells whether a service is still as it was known. */
export type LockedService = Pick<Service, "uid" | "name" | "wish" | "generation" | "version">;

/** Locks services in the order of their names, as everybody does, so that none waits for another in a circle. */
export async function lockServices(on: Queryable, uids: readonly string[]): Promise<LockedService[]> {
  const rows = await query<Pick<LockedService, "uid" | "name" | "wish"> & { generation: bigint; version: bigint }>(
    on,
    "SELECT uid, name, wish, generation, version FROM services WHERE uid = ANY ($1) ORDER BY name_key FOR UPDATE",
    [uids],
    "services by uid, locked",
  );
  return rows.map((row) => ({ ...row, generation: Number(row.generation), version: Number(row.version) }));
}

/** The same for the services of a set. */
export async function lockSet(on: Queryable, setName: string): Promise<Service[]> {
  const rows = await query<{ image: ServiceImage }>(
    on,
    "SELECT service_image(s) AS image FROM services s WHERE s.set_name = $1 ORDER BY s.name_key FOR UPDATE",
    [setName],
  );
  return rows.map(({ image }) => decodeService(image));
}

/** The same for the services with a wish. */
export async function lockWished(on: Queryable, wish: Wish): Promise<Service[]> {
  const rows = await query<{ image: ServiceImage }>(
    on,
    "SELECT service_image(s) AS image FROM services s WHERE s.wish = $1 ORDER BY s.name_key FOR UPDATE",
    [wish],
  );
  return rows.map(({ image }) => decodeService(image));
}

/** Any two transactions that look at who depends on whom take turns on this lock. */
const dependencyLock = 7_381_640_256;

/** Of every service that is not on its way out the keys of those that it depends on, by its key. */
export async function lockDependencies(on: Queryable): Promise<Map<string, string[]>> {
  await query(on, "SELECT pg_advisory_xact_lock($1)", [dependencyLock], "lock dependencies");
  const rows = await query<{ name_key: string; names: string[] | null }>(
    on,
    `SELECT s.name_key, (SELECT array_agg(d ->> 'service') FROM jsonb_array_elements(s.spec #> '{kind,dependsOn}') d) AS names
       FROM services s WHERE s.wish <> 'deleted'`,
    [],
    "dependencies",
  );
  return new Map(rows.map(({ name_key: key, names }) => [key, (names ?? []).map(nameKey)]));
}

export async function insertService(on: Queryable, service: NewService): Promise<void> {
  const { spec, name } = service;
  const inserted = query(
    on,
    `INSERT INTO services (uid, name, name_key, spec, oauth_client_id, api_token_sealed, set_name, wish, status)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
    [
      service.uid,
      name,
      nameKey(name),
      spec,
      spec.oauthClientId,
      service.apiTokenSealed ?? null,
      service.setName,
      service.wish,
      factJson(service.status),
    ],
    "insert service",
  );
  await inserted.catch((error: unknown) => throwUnique(error, name, spec));
}

export async function updateService(
  on: Queryable,
  { uid, name }: Pick<Service, "uid" | "name">,
  patch: ServicePatch,
): Promise<void> {
  const { spec, status } = patch;
  const updated = query(
    on,
    `UPDATE services SET spec = COALESCE($2, spec), oauth_client_id = COALESCE($3, oauth_client_id),
       api_token_sealed = CASE WHEN $4 THEN $5 ELSE api_token_sealed END, wish = COALESCE($6, wish),
       generation = COALESCE($7, generation), version = COALESCE($8, version), set_name = COALESCE($9, set_name),
       status = COALESCE($10, status), resets = COALESCE($11, resets), update_time = CASE WHEN $8 IS NULL THEN update_time ELSE now() END
     WHERE uid = $1`,
    [
      uid,
      spec ?? null,
      spec?.oauthClientId ?? null,
      patch.apiTokenSealed !== undefined,
      patch.apiTokenSealed ?? null,
      patch.wish ?? null,
      patch.generation ?? null,
      patch.version ?? null,
      patch.setName ?? null,
      status === undefined ? null : factJson(status),
      patch.resets ?? null,
    ],
    "update service",
  );
  await updated.catch((error: unknown) => throwUnique(error, name, spec));
}

/** Sets the statuses of services, by uid. */
export async function saveStatuses(on: Queryable, statuses: ReadonlyMap<string, ServiceStatus>): Promise<void> {
  await query(
    on,
    "UPDATE services s SET status = n.status FROM jsonb_each($1) AS n (uid, status) WHERE s.uid = n.uid::uuid",
    [factJson(Object.fromEntries(statuses))],
    "save statuses",
  );
}

/** Removes a service of which nothing is left: no instance that may live and no route. Returns whether it did. */
export async function removeService(on: Queryable, uid: string): Promise<boolean> {
  const removed = await query(
    on,
    `DELETE FROM services s WHERE s.uid = $1
       AND NOT EXISTS (SELECT FROM instances i WHERE i.service_uid = s.uid AND i.state <> 'ended')
       AND NOT EXISTS (SELECT FROM routes r WHERE r.service_uid = s.uid) RETURNING 1`,
    [uid],
    "remove service",
  );
  return removed.length > 0;
}

function throwUnique(error: unknown, name: string, spec: ServiceSpec | undefined): never {
  switch (brokenConstraint(error)) {
    case "services_name_unique":
      throw serviceExists(name, name);
    case "services_oauth_client_id_unique":
      throw invalid({
        field: "service.spec.oauth_client_id",
        description: `${JSON.stringify(spec?.oauthClientId)} is another service's`,
      });
    default:
      throw error;
  }
}
