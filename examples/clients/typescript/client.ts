/**
 * Registers a service and watches what happens to it until it is deleted, over whatever interrupts the connection: with the generated code and
 * the clients of Connect alone. The package `steward` has a client that does the resuming by itself.
 *
 *   STEWARD_TOKEN=... node client.ts http://HOST:PORT NAME [connect|grpc|grpc-web]
 */
import { setTimeout as delay } from "node:timers/promises";
import { type Client, Code, ConnectError, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { ErrorInfoSchema } from "../../../gen/google/rpc/error_details_pb.ts";
import { EventType, EventTypeSchema } from "../../../gen/steward/v1/event_pb.ts";
import { ServiceRegistry } from "../../../gen/steward/v1/service_registry_pb.ts";
import { Supervisor } from "../../../gen/steward/v1/supervisor_pb.ts";

const [address = "", name = "", protocol = "connect"] = process.argv.slice(2);
/** What passes by itself. */
const transient = new Set([Code.Unavailable, Code.Canceled, Code.Aborted]);
const transport = transportTo(address, process.env["STEWARD_TOKEN"] ?? "");
const registry = createClient(ServiceRegistry, transport);

const request = {
  serviceId: name,
  service: { spec: { url: "http://127.0.0.1:8080", kind: { case: "external" as const, value: {} } } },
};
const { service, revision } = await registry.create(request);
console.log("created", service?.name);
await registry.create(request).catch((error: unknown) => console.log("refused", reasonOf(error)));
// One before: so that the watch begins with what we did ourselves.
await watch(createClient(Supervisor, transport), revision - 1n);
process.exit();

/** Ends when the service is deleted. What passes by itself is tried again, after the last cursor: nothing is missed, nothing comes twice. */
async function watch(supervisor: Client<typeof Supervisor>, from: bigint): Promise<void> {
  const types = [EventType.SERVICE_CREATED, EventType.SERVICE_UPDATED, EventType.SERVICE_DELETED];
  let after: { storeUid: string; revision: bigint } | undefined = { storeUid: "", revision: from };
  for (;;) {
    try {
      for await (const { cursor, message } of supervisor.watchEvents({
        ...{ after, types, filter: `service = ${JSON.stringify(name)}` },
      })) {
        after = cursor;
        for (const { type } of message.case === "batch" ? message.value.events : []) {
          console.log("seen", EventTypeSchema.value[type]?.name);
          if (type === EventType.SERVICE_DELETED) return;
        }
      }
    } catch (error) {
      if (!transient.has(ConnectError.from(error).code)) throw error;
    }
    console.log("interrupted");
    await delay(200);
  }
}

function transportTo(baseUrl: string, token: string): Transport {
  const bearer: Interceptor = (next) => (call) => {
    call.header.set("authorization", `Bearer ${token}`);
    return next(call);
  };
  const options = { baseUrl, interceptors: [bearer] };
  if (protocol === "grpc") return createGrpcTransport(options);
  if (protocol === "grpc-web") return createGrpcWebTransport({ ...options, httpVersion: "1.1" });
  return createConnectTransport({ ...options, httpVersion: "2" });
}

/** The machine-readable cause of an error; see error.proto. */
function reasonOf(error: unknown): string {
  const failure = ConnectError.from(error);
  return `${Code[failure.code]} ${failure.findDetails(ErrorInfoSchema)[0]?.reason ?? failure.rawMessage}`;
}
