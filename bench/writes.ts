import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import pg from "pg";
import { type ServiceSpecSchema } from "../gen/steward/v1/service_pb.ts";
import { UpdateRequestSchema } from "../gen/steward/v1/service_registry_pb.ts";
import { migrate } from "../src/store/migrate.ts";
import { BenchPostgres } from "./database.ts";
import { figureOf, type Measure, type Round } from "./figure.ts";
import { callsWithin, framed, http2Caller, inFlight } from "./load.ts";
import { withSteward } from "./scene.ts";

const sliceMs = 1_500;

/**
 * Updates per second over gRPC, each of another service than those in flight beside it, against the same statements sent to the same server by
 * as many connections as Steward has: one transaction with its row, its event and its revision.
 */
export const measureWrites: Measure = async ({ rounds }) => {
  await using postgres = await BenchPostgres.start();
  const bareDatabase = await postgres.createDatabase("bare");
  await migrate(bareDatabase);
  return await withSteward({ "database-url": postgres.url }, async ({ steward, client }) => {
    for (let index = 0; index < inFlight; index++) {
      await client.registry.create({ serviceId: nameOf(index), service: { spec: specWith(0) } });
    }
    await copyServices(postgres.connection, bareDatabase);
    let count = 0;
    const ours = http2Caller({
      origin: steward.addresses.grpc,
      path: "/steward.v1.ServiceRegistry/Update",
      headers: {
        "content-type": "application/grpc+proto",
        te: "trailers",
        authorization: `Bearer ${steward.adminToken}`,
      },
      body: (worker) => {
        const request = {
          service: { name: nameOf(worker), spec: specWith(++count) },
          updateMask: { paths: ["spec.labels"] },
        };
        return framed(toBinary(UpdateRequestSchema, create(UpdateRequestSchema, request)));
      },
    });
    await using bare = new BareWriter(bareDatabase);
    try {
      const results: Round[] = [];
      for (const caller of [ours, bare]) await callsWithin(caller, sliceMs);
      for (let round = 0; round < rounds; round++) {
        const theirs = await callsWithin(bare, sliceMs);
        results.push({ ours: perSecond(await callsWithin(ours, sliceMs)), bare: perSecond(theirs) });
      }
      return [figureOf({ name: `updates, ${inFlight} in flight`, unit: "writes/s", aim: { atLeast: 0.5 } }, results)];
    } finally {
      ours.close();
    }
  });
};

function perSecond(calls: number): number {
  return (calls / sliceMs) * 1000;
}

function nameOf(worker: number): string {
  return `w${worker}`;
}

function specWith(count: number): MessageInitShape<typeof ServiceSpecSchema> {
  const labels = { count: String(count) };
  return { url: "http://127.0.0.1:9", kind: { case: "external", value: {} }, labels };
}

async function copyServices(from: pg.ClientConfig, to: pg.ClientConfig): Promise<void> {
  const [source, target] = [new pg.Client({ ...from }), new pg.Client({ ...to })];
  await Promise.all([source.connect(), target.connect()]);
  const { rows } = await source.query<{ row: unknown }>("SELECT to_jsonb(s) AS row FROM services s");
  for (const { row } of rows) {
    await target.query("INSERT INTO services SELECT * FROM jsonb_populate_record(NULL::services, $1)", [row]);
  }
  await Promise.all([source.end(), target.end()]);
}

/** Sends what the store sends for an update, and decides nothing. */
class BareWriter implements AsyncDisposable {
  readonly #pool: pg.Pool;
  #count = 0;

  constructor(database: pg.PoolConfig) {
    this.#pool = new pg.Pool({ ...database, max: 12 });
  }

  async call(worker: number): Promise<void> {
    const name = nameOf(worker);
    const client = await this.#pool.connect();
    try {
      await client.query("BEGIN; SET LOCAL idle_in_transaction_session_timeout = '30s'");
      await client.query({ name: "xid", text: "SELECT pg_current_xact_id()::text AS xid" });
      const { uid, image } = await one<{ uid: string; image: { spec: object } }>(
        client,
        "find",
        "SELECT s.uid, service_image(s) AS image FROM services s WHERE s.name_key = $1 FOR UPDATE",
        [name],
      );
      const spec = { ...image.spec, labels: { count: String(++this.#count) } };
      await client.query({
        name: "update",
        text: "UPDATE services SET spec = $2, version = version + 1, update_time = now() WHERE uid = $1",
        values: [uid, spec],
      });
      await one(client, "read", "SELECT service_image(s) AS image FROM services s WHERE s.uid = $1", [uid]);
      const body = { type: "service_updated", paths: ["spec.labels"], restarts: false };
      const event = { body, service: name, serviceUid: uid, generation: 1, actor: "operator", message: "changed" };
      const append = "SELECT revision, uid, image FROM append_events($1, $2, 'bench')";
      await one(client, "append", append, [JSON.stringify([event]), [uid]]);
      await client.query("COMMIT");
    } finally {
      client.release();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool.end();
  }
}

async function one<R extends pg.QueryResultRow>(
  client: pg.PoolClient,
  name: string,
  text: string,
  values: readonly unknown[],
): Promise<R> {
  const { rows } = await client.query<R>({ name, text, values: [...values] });
  const [row] = rows;
  if (row === undefined) throw new Error(`${name} found nothing`);
  return row;
}
