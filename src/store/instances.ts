import type pg from "pg";
import type { Instance, InstanceExit } from "../domain/status.ts";
import { decodeExit, factJson, type Json } from "./json.ts";
import { type Queryable, query } from "./postgres.ts";

interface InstanceRow {
  readonly id: string;
  readonly service: string;
  readonly service_uid: string;
  readonly generation: bigint;
  readonly node: string;
  readonly role: Instance["role"];
  readonly state: Instance["state"];
  readonly boot_id: string | null;
  readonly shim_pid: number | null;
  readonly shim_start_time: string | null;
  readonly pid: number | null;
  readonly create_time: Date;
  readonly start_time: Date | null;
  readonly ready_time: Date | null;
  readonly exit: Json<InstanceExit> | null;
}

/** Reading instances. */
export class InstanceRows {
  readonly #pool: pg.Pool;

  constructor(pool: pg.Pool) {
    this.#pool = pool;
  }

  /** The instances of a node that have not ended, as far as was recorded. */
  async live(node: string): Promise<Instance[]> {
    const rows = await query<InstanceRow>(this.#pool, "SELECT * FROM instances WHERE node = $1 AND state <> 'ended'", [
      node,
    ]);
    return rows.map(decodeInstance);
  }

  /** Newest first, after the given place. */
  async page(o: {
    serviceUid: string | undefined;
    liveOnly: boolean;
    after: { time: Date; id: string } | undefined;
    limit: number;
  }): Promise<Instance[]> {
    const rows = await query<InstanceRow>(
      this.#pool,
      `SELECT * FROM instances
        WHERE ($1::uuid IS NULL OR service_uid = $1) AND (NOT $2 OR state <> 'ended')
          AND ($3::timestamptz IS NULL OR (create_time, id) < ($3, $4::uuid))
        ORDER BY create_time DESC, id DESC LIMIT $5`,
      [o.serviceUid ?? null, o.liveOnly, o.after?.time ?? null, o.after?.id ?? null, o.limit],
    );
    return rows.map(decodeInstance);
  }
}

/** Inserts instances, or updates them by their ids, one after the other; no id may come twice. */
export async function saveInstances(on: Queryable, instances: readonly Instance[]): Promise<void> {
  await query(
    on,
    `INSERT INTO instances (id, service, service_uid, generation, node, state, boot_id, shim_pid, shim_start_time, pid, create_time, start_time, ready_time, exit, role)
     SELECT id, service, service_uid, generation, node, state, boot_id, shim_pid, shim_start_time, pid, create_time, start_time, ready_time, exit, role
       FROM ROWS FROM (jsonb_to_recordset($1) AS (id uuid, service text, service_uid uuid, generation bigint, node text, state text, boot_id text,
         shim_pid integer, shim_start_time text, pid integer, create_time timestamptz, start_time timestamptz, ready_time timestamptz, exit jsonb, role text))
         WITH ORDINALITY ORDER BY ordinality
     ON CONFLICT (id) DO UPDATE SET role = EXCLUDED.role, state = EXCLUDED.state, boot_id = EXCLUDED.boot_id, shim_pid = EXCLUDED.shim_pid,
       shim_start_time = EXCLUDED.shim_start_time, pid = EXCLUDED.pid, start_time = EXCLUDED.start_time,
       ready_time = EXCLUDED.ready_time, exit = EXCLUDED.exit`,
    [factJson(instances.map(encodeInstance))],
    "save instances",
  );
}

function encodeInstance(instance: Instance): Partial<Record<keyof InstanceRow, unknown>> {
  return {
    id: instance.id,
    service: instance.service,
    service_uid: instance.serviceUid,
    generation: instance.generation,
    node: instance.node,
    state: instance.state,
    boot_id: instance.process?.bootId,
    shim_pid: instance.process?.pid,
    shim_start_time: instance.process?.startTime,
    pid: instance.pid,
    create_time: instance.createTime,
    start_time: instance.startTime,
    ready_time: instance.readyTime,
    exit: instance.exit,
    role: instance.role,
  };
}

function decodeInstance(row: InstanceRow): Instance {
  const { boot_id: bootId, shim_pid: shimPid, shim_start_time: startTime } = row;
  return {
    id: row.id,
    service: row.service,
    serviceUid: row.service_uid,
    generation: Number(row.generation),
    node: row.node,
    role: row.role,
    state: row.state,
    process:
      bootId === null || shimPid === null || startTime === null ? undefined : { bootId, pid: shimPid, startTime },
    pid: row.pid ?? undefined,
    createTime: row.create_time,
    startTime: row.start_time ?? undefined,
    readyTime: row.ready_time ?? undefined,
    exit: row.exit === null ? undefined : decodeExit(row.exit),
  };
}
