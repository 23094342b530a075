/**
 * Registers a service and watches what happens to it until it is deleted, over whatever interrupts the connection: with grpc-js and proto-loader
 * alone, which read the proto files as they are and generate nothing.
 *
 *   STEWARD_TOKEN=... node client.ts HOST:PORT NAME
 */
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import {
  type Client,
  credentials,
  loadPackageDefinition,
  Metadata,
  type ServiceClientConstructor,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { loadSync, type MessageTypeDefinition } from "@grpc/proto-loader";

const [address = "", name = ""] = process.argv.slice(2);
const proto = fileURLToPath(new URL("../../../proto", import.meta.url));
const definitions = loadSync(
  [
    "steward/v1/service_registry.proto",
    "steward/v1/supervisor.proto",
    "google/rpc/status.proto",
    "google/rpc/error_details.proto",
  ],
  // Whole numbers of 64 bits as texts: JavaScript's own numbers lose the last digits of a large one.
  {
    includeDirs: [proto, `${proto}/third_party`],
    keepCase: true,
    longs: String,
    enums: String,
    oneofs: true,
    defaults: true,
  },
);
const { steward } = loadPackageDefinition(definitions) as unknown as {
  readonly steward: { readonly v1: Readonly<Record<"ServiceRegistry" | "Supervisor", ServiceClientConstructor>> };
};
/** What passes by itself. */
const transient = new Set([status.UNAVAILABLE, status.CANCELLED, status.ABORTED]);
const metadata = new Metadata();
metadata.set("authorization", `Bearer ${process.env["STEWARD_TOKEN"]}`);

const registry = new steward.v1.ServiceRegistry(address, credentials.createInsecure());
const request = { service_id: name, service: { spec: { url: "http://127.0.0.1:8080", external: {} } } };
const created = await call<{ service: { name: string }; revision: string }>(registry, "Create", request);
console.log("created", created.service.name);
await call(registry, "Create", request).catch((error: ServiceError) => console.log("refused", reasonOf(error)));
// One before: so that the watch begins with what we did ourselves.
await watch(new steward.v1.Supervisor(address, credentials.createInsecure()), BigInt(created.revision) - 1n);
process.exit();

interface WatchEventsResponse {
  readonly cursor: object;
  readonly message: string;
  readonly batch?: { readonly events: readonly { readonly type: string }[] };
}

/** Ends when the service is deleted. What passes by itself is tried again, after the last cursor: nothing is missed, nothing comes twice. */
async function watch(supervisor: Client, from: bigint): Promise<void> {
  const types = ["EVENT_TYPE_SERVICE_CREATED", "EVENT_TYPE_SERVICE_UPDATED", "EVENT_TYPE_SERVICE_DELETED"];
  let after: object = { revision: String(from) };
  for (;;) {
    try {
      const stream = open<WatchEventsResponse>(supervisor, "WatchEvents", {
        after,
        types,
        filter: `service = ${JSON.stringify(name)}`,
      });
      for await (const { cursor, batch } of stream) {
        after = cursor;
        for (const { type } of batch?.events ?? []) {
          console.log("seen", type);
          if (type === "EVENT_TYPE_SERVICE_DELETED") return;
        }
      }
    } catch (error) {
      if (!transient.has((error as ServiceError).code)) throw error;
    }
    console.log("interrupted");
    await delay(200);
  }
}

// What proto-loader makes of a proto has no types: its methods are found by their names.
function call<T>(client: Client, method: string, message: object): Promise<T> {
  const { path, requestSerialize, responseDeserialize } = methodOf(client, method);
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(path, requestSerialize, responseDeserialize, message, metadata, (error, response) =>
      error === null ? resolve(response as T) : reject(error),
    );
  });
}

function open<T>(client: Client, method: string, message: object): AsyncIterable<T> {
  const { path, requestSerialize, responseDeserialize } = methodOf(client, method);
  // Without it a call would fail at once while the server is away.
  const options = new Metadata({ waitForReady: true });
  options.merge(metadata);
  return client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, message, options);
}

function methodOf(client: Client, method: string) {
  const definition = (client.constructor as ServiceClientConstructor).service[method];
  if (definition === undefined) throw new Error(`there is no method ${method}`);
  return definition;
}

/** The machine-readable cause of an error; see error.proto. */
function reasonOf(error: ServiceError): string {
  const [details] = error.metadata.get("grpc-status-details-bin");
  if (details === undefined) return error.message;
  const packed = decode<{ details: { type_url: string; value: Buffer }[] }>(
    "google.rpc.Status",
    details as Buffer,
  ).details;
  const info = packed.find(({ type_url }) => type_url.endsWith("/google.rpc.ErrorInfo"));
  const reason =
    info === undefined ? error.details : decode<{ reason: string }>("google.rpc.ErrorInfo", info.value).reason;
  return `${status[error.code]} ${reason}`;
}

function decode<T>(type: string, bytes: Buffer): T {
  return (definitions[type] as MessageTypeDefinition<object, object>).deserialize(bytes) as T;
}
