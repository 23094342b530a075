import { once } from "node:events";
import { connect as http2Connect } from "node:http2";
import { Code, createClient } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { Health } from "../../gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../../gen/grpc/reflection/v1/reflection_pb.ts";
import { ServiceRegistry } from "../../gen/steward/v1/service_registry_pb.ts";
import { AppError } from "../../src/domain/errors.ts";
import { eventually } from "../support/eventually.ts";
import { type MetricsPage, readMetrics, valueOf } from "../support/prometheus.ts";
import {
  failureOf,
  goodSecret,
  type RegistryHandlers,
  type Rig,
  registryClient,
  startRig,
  transportNames,
  transportOf,
} from "./rig.ts";

/** As google.golang.org/grpc/codes names them. */
const codes = [
  ...["OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists"],
  ...["PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented"],
  ...["Internal", "Unavailable", "DataLoss", "Unauthenticated"],
];

test("every method has all its series from the start, with 0 and the names of go-grpc-prometheus", async () => {
  await using rig = await startRig();

  const page = await readMetrics(origin(rig));

  const served = [...ServiceRegistry.methods, ...Health.methods, ...ServerReflection.methods];
  for (const { name, parent, methodKind } of served) {
    const type = methodKind.replace("streaming", "stream");
    const labels = { grpc_type: type, grpc_service: parent.typeName, grpc_method: name };
    for (const metric of ["started_total", "msg_received_total", "msg_sent_total", "handling_seconds_count"])
      expect(valueOf(page, `grpc_server_${metric}`, labels)).toBe(0);
    const handled = page.samples.filter(
      (sample) => sample.name === "grpc_server_handled_total" && sample.labels["grpc_method"] === name,
    );
    const ofThis = handled.filter((sample) => sample.labels["grpc_service"] === parent.typeName);
    expect(ofThis.map((sample) => sample.labels["grpc_code"])).toEqual(codes);
    expect(ofThis.every(({ value }) => value === 0)).toBe(true);
  }
});

describe.each(transportNames)("over %s", (transport) => {
  test("a unary call counts when it ends, with its code and its messages", async () => {
    await using rig = await startRig();
    const client = registryClient(rig, transport);

    await client.list({});
    await client.list({});
    await failureOf(client.get({ name: "nobody" }));
    await failureOf(client.get({ name: "" }));

    await eventually(async () => (await handled(rig, "Get", "InvalidArgument")) === 1);
    const page = await readMetrics(origin(rig));
    expect(countsOf(page, "List")).toEqual({ started: 2, handled: { OK: 2 }, received: 2, sent: 2, timed: 2 });
    expect(countsOf(page, "Get")).toEqual({
      started: 2,
      handled: { NotFound: 1, InvalidArgument: 1 },
      received: 2,
      sent: 0,
      timed: 2,
    });
  });

  test("a call that is refused at the gate counts, though no message of it was read", async () => {
    await using rig = await startRig();

    await failureOf(registryClient(rig, transport, "").list({}));
    await failureOf(drain(registryClient(rig, transport, "sts_wrong").watchServices({})));

    await eventually(async () => (await handled(rig, "WatchServices", "Unauthenticated")) === 1);
    const page = await readMetrics(origin(rig));
    for (const method of ["List", "WatchServices"]) {
      const counts = { started: 1, handled: { Unauthenticated: 1 }, received: 0, sent: 0, timed: 1 };
      expect(countsOf(page, method)).toEqual(counts);
    }
  });

  test("whatever methods clients make up, they are one series", async () => {
    await using rig = await startRig();
    const error = await failureOf(createClient(strangers, transportOf(rig, transport)).list({}));

    expect(error.code).toBe(Code.Unimplemented);
    const page = await readMetrics(origin(rig));
    expect(countsOf(page, "unknown")).toEqual({
      started: 1,
      handled: { Unimplemented: 1 },
      received: 0,
      sent: 0,
      timed: 1,
    });
    expect(page.samples.some(({ labels }) => labels["grpc_service"] === strangers.typeName)).toBe(false);
  });

  test("a stream counts its messages as they go, and its end when it ends", async () => {
    const { promise: released, resolve: release } = Promise.withResolvers<void>();
    await using rig = await startRig({
      async *watchServices() {
        yield {};
        yield {};
        await released;
        yield {};
      },
    });
    const stream = registryClient(rig, transport).watchServices({})[Symbol.asyncIterator]();
    await stream.next();
    await stream.next();

    const during = countsOf(await readMetrics(origin(rig)), "WatchServices");
    release();
    await stream.next();
    await stream.next();

    expect(during).toEqual({ started: 1, handled: {}, received: 1, sent: 2, timed: 0 });
    await eventually(async () => (await handled(rig, "WatchServices", "OK")) === 1);
    const after = countsOf(await readMetrics(origin(rig)), "WatchServices");
    expect(after).toEqual({ started: 1, handled: { OK: 1 }, received: 1, sent: 3, timed: 1 });
  });

  test.each<[string, Code, RegistryHandlers["watchServices"]]>([
    ["a failure for the caller", Code.OutOfRange, failing(new AppError("out_of_range", "REVISION_COMPACTED", "gone"))],
    ["a bug", Code.Internal, failing(new Error("a bug"))],
  ])("a stream that ends with %s in the middle has that code", async (_, code, watchServices) => {
    await using rig = await startRig({ watchServices });

    const error = await failureOf(drain(registryClient(rig, transport).watchServices({})));

    expect(error.code).toBe(code);
    await eventually(async () => (await handled(rig, "WatchServices", Code[code] ?? "")) === 1);
    expect(countsOf(await readMetrics(origin(rig)), "WatchServices")).toMatchObject({ sent: 1, timed: 1 });
  });

  test("a stream that its client ends is Canceled, one at its deadline DeadlineExceeded, one at the drain Unavailable", async () => {
    await using rig = await startRig({ watchServices: endless });
    const client = registryClient(rig, transport);
    const leaving = new AbortController();
    const left = client.watchServices({}, { signal: leaving.signal })[Symbol.asyncIterator]();
    await left.next();
    leaving.abort();
    await failureOf(left.next());
    await eventually(async () => (await handled(rig, "WatchServices", "Canceled")) === 1);

    const [header, value] = transport.startsWith("Connect") ? ["connect-timeout-ms", "100"] : ["grpc-timeout", "100m"];
    await failureOf(drain(client.watchServices({}, { headers: { [header]: value } })));
    await eventually(async () => (await handled(rig, "WatchServices", "DeadlineExceeded")) === 1);

    const drained = client.watchServices({})[Symbol.asyncIterator]();
    await drained.next();
    await Promise.all([rig.server.stop(), failureOf(drained.next())]);
    const ended = await rig.server.metrics.registry.getSingleMetric("grpc_server_handled_total")?.get();
    const counted = ended?.values.filter(({ value, labels }) => value > 0 && labels["grpc_method"] === "WatchServices");
    expect(counted?.map(({ labels }) => labels["grpc_code"]).sort()).toEqual([
      ...["Canceled", "DeadlineExceeded", "Unavailable"],
    ]);
  });
});

test.each(["gRPC", "gRPC on grpc-js"] as const)("over %s each message of both directions counts", async (transport) => {
  await using rig = await startRig();
  const client = createClient(ServerReflection, transportOf(rig, transport));
  const questions = ["listServices", "listServices", "listServices"] as const;

  const answers = client.serverReflectionInfo(
    (async function* () {
      for (const question of questions) yield { messageRequest: { case: question, value: "" } };
    })(),
  );
  expect(await drain(answers)).toBe(3);

  const reflected = { grpc_service: ServerReflection.typeName };
  const page = await eventually(async () => {
    const read = await readMetrics(origin(rig));
    return valueOf(read, "grpc_server_handled_total", { ...reflected, grpc_code: "OK" }) === 1 ? read : undefined;
  });
  expect(valueOf(page, "grpc_server_msg_received_total", { ...reflected, grpc_type: "bidi_stream" })).toBe(3);
  expect(valueOf(page, "grpc_server_msg_sent_total", reflected)).toBe(3);
});

test.each([
  ["the Connect port", "connectPort"],
  ["the port for gRPC", "grpcPort"],
] as const)("a client that cuts the connection ends its streams as Canceled, on %s", async (_, port) => {
  await using rig = await startRig({ watchServices: endless });
  const session = http2Connect(`http://127.0.0.1:${rig[port]}`);
  session.on("error", () => undefined);
  const stream = session.request({
    ":method": "POST",
    ":path": "/steward.v1.ServiceRegistry/WatchServices",
    "content-type": "application/grpc",
    authorization: `Bearer ${goodSecret}`,
  });
  stream.on("error", () => undefined);
  stream.end(Buffer.from([0, 0, 0, 0, 0]));
  await once(stream, "data");

  session.destroy();

  await eventually(async () => (await handled(rig, "WatchServices", "Canceled")) === 1);
  expect(countsOf(await readMetrics(origin(rig)), "WatchServices")).toMatchObject({ started: 1, timed: 1 });
});

test("what a gRPC port cannot read as a call of a method counts as one of it, refused", async () => {
  await using rig = await startRig();
  const session = http2Connect(`http://127.0.0.1:${rig.grpcPort}`);
  const stream = session.request({
    ":method": "POST",
    ":path": "/steward.v1.ServiceRegistry/List",
    "content-type": "application/grpc+json",
    "x-request-id": "order-4711",
  });
  const [headers] = await once(stream, "response");
  session.destroy();

  expect(headers["x-request-id"]).toBe("order-4711");
  expect(countsOf(await readMetrics(origin(rig)), "List")).toMatchObject({ started: 1, handled: { Unimplemented: 1 } });
});

const endless: RegistryHandlers["watchServices"] = async function* (_request, { signal }) {
  yield {};
  await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
};

function failing(error: Error): RegistryHandlers["watchServices"] {
  return async function* () {
    yield {};
    throw error;
  };
}

/** A service with a method of ours, which the server does not have. */
const strangers = {
  ...ServiceRegistry,
  typeName: "steward.v1.Nobody",
  method: {
    ...ServiceRegistry.method,
    list: { ...ServiceRegistry.method.list, parent: { typeName: "steward.v1.Nobody" } },
  },
  methods: [{ ...ServiceRegistry.method.list, parent: { ...ServiceRegistry, typeName: "steward.v1.Nobody" } }],
} as unknown as typeof ServiceRegistry;

function origin(rig: Rig): string {
  return `http://127.0.0.1:${rig.connectPort}`;
}

/** What was counted of a method; codes that never came are left out. */
function countsOf(page: MetricsPage, method: string) {
  const labels = { grpc_method: method };
  const codesOf = page.samples.filter(
    ({ name, labels: { grpc_method }, value }) =>
      name === "grpc_server_handled_total" && grpc_method === method && value > 0,
  );
  return {
    started: valueOf(page, "grpc_server_started_total", labels),
    handled: Object.fromEntries(codesOf.map(({ labels: { grpc_code = "" }, value }) => [grpc_code, value])),
    received: valueOf(page, "grpc_server_msg_received_total", labels),
    sent: valueOf(page, "grpc_server_msg_sent_total", labels),
    timed: valueOf(page, "grpc_server_handling_seconds_count", labels),
  };
}

async function handled(rig: Rig, method: string, code: string): Promise<number | undefined> {
  const page = await readMetrics(origin(rig));
  return valueOf(page, "grpc_server_handled_total", { grpc_method: method, grpc_code: code });
}

async function drain(stream: AsyncIterable<unknown>): Promise<number> {
  let count = 0;
  for await (const _ of stream) count += 1;
  return count;
}
