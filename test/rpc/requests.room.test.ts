import { once } from "node:events";
import { connect as http2Connect } from "node:http2";
import { gzipSync } from "node:zlib";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { Health } from "../../gen/grpc/health/v1/health_pb.ts";
import { ServiceRegistry } from "../../gen/steward/v1/service_registry_pb.ts";
import { eventually } from "../support/eventually.ts";
import { failureOf, goodSecret, type Rig, registryClient, startRig, transportNames, transportOf } from "./rig.ts";

const limit = 64 * 1024;
const hashes: string[] = [];
let rig: Rig;

beforeAll(async () => {
  rig = await startRig(
    {
      create: async (_request, context) => {
        hashes.push(context.requestHash());
        context.responseHeaders.set("deprecation", "true");
        return { revision: 9_007_199_254_740_993n };
      },
      whoAmI: async () => ({ scopes: Array.from({ length: 5000 }, () => "a scope with a long name") }),
    },
    { limits: { messageBytes: limit } },
  );
});

afterAll(() => rig[Symbol.asyncDispose]());

describe.each(transportNames)("over %s", (transport) => {
  test.each([limit + 1, limit * 3])("a request of %d bytes is too large", async (size) => {
    const error = await failureOf(registryClient(rig, transport).list({ filter: "x".repeat(size) }));

    expect(error.code).toBe(Code.ResourceExhausted);
    if (size < 2 * limit || transport !== "gRPC on grpc-js") expect(reasonOf(error)).toBe("REQUEST_TOO_LARGE");
  });

  test("a response that is too large is not sent", async () => {
    const error = await failureOf(registryClient(rig, transport).whoAmI({}));

    expect(error.code).toBe(Code.ResourceExhausted);
    expect(error.rawMessage).toMatch(/larger than .*65536/);
  });

  test("a method that the server does not have is UNIMPLEMENTED", async () => {
    const stranger = {
      ...ServiceRegistry,
      typeName: "steward.v1.Nobody",
      method: {
        ...ServiceRegistry.method,
        list: { ...ServiceRegistry.method.list, parent: { typeName: "steward.v1.Nobody" } },
      },
      methods: [{ ...ServiceRegistry.method.list, parent: { ...ServiceRegistry, typeName: "steward.v1.Nobody" } }],
    } as unknown as typeof ServiceRegistry;
    const client = createClient(stranger, transportOf(rig, transport));

    const error = await failureOf(client.list({}));

    expect(error.code).toBe(Code.Unimplemented);
    expect(reasonOf(error)).toBe("METHOD_UNKNOWN");
  });

  test("headers that the handler sets arrive, and 64-bit numbers are exact", async () => {
    let deprecation: string | null = null;
    const response = await registryClient(rig, transport).create(
      { serviceId: "a", service: { spec: { kind: { case: "external", value: {} } } } },
      { onHeader: (headers) => (deprecation = headers.get("deprecation")) },
    );

    expect(response.revision).toBe(9_007_199_254_740_993n);
    expect(deprecation).toBe("true");
  });

  test("equal requests have equal hashes, whatever the order of their maps", async () => {
    const create = async (environment: Record<string, string>) => {
      const spec = { kind: { case: "managed" as const, value: { command: ["x"], environment } } };
      await registryClient(rig, transport).create({ serviceId: "a", service: { spec } });
      return hashes.at(-1);
    };

    const first = await create({ A: "1", B: "2" });

    expect(await create({ B: "2", A: "1" })).toBe(first);
    expect(await create({ A: "1", B: "3" })).not.toBe(first);
    expect(first).toMatch(/^[0-9a-f]{64}$/);
  });
});

describe("JSON that does not fit is refused, and the field is named", () => {
  test.each([
    ['{"serviceId":"a","colour":1}', "colour", "steward.v1.CreateRequest has no such field"],
    ['{"service":{"spec":{"managed":{"comand":["x"]}}}}', "comand", "steward.v1.ManagedSpec has no such field"],
    ['{"serviceId":7}', "service_id", "expected string"],
    ['{"service":{"spec":{"api_token":["sts_secret"]}}}', "api_token", "expected string"],
    ['{"service":{"spec":{"managed":{"environment":{"A":1}}}}}', "environment", "expected string"],
    ['{"service":{"spec":{"managed":{},"external":{}}}}', "kind", "only one of managed and external may be given"],
    ['{"serviceId":"sts_secret', undefined, "not valid JSON"],
    ["[]", undefined, "not valid JSON of steward.v1.CreateRequest"],
  ])("%s", async (body, field, words) => {
    const answer = await post("Create", body);

    expect(answer.status).toBe(400);
    const { code, message, details } = await bodyOf(answer);
    expect(code).toBe("invalid_argument");
    expect(message).toContain(words);
    expect(details[0]?.debug).toMatchObject({ reason: "MALFORMED_REQUEST", domain: "steward" });
    if (field !== undefined) expect(details[1]?.debug.fieldViolations?.[0]?.field).toBe(field);
    expect(JSON.stringify(details) + message).not.toContain("sts_secret");
  });

  test("over gRPC-Web and a stream too", async () => {
    const error = await failureOf(
      createClient(ServiceRegistry, transportOf(rig, "Connect JSON"))
        .watchServices({ filter: "x".repeat(limit + 1) })
        [Symbol.asyncIterator]()
        .next(),
    );

    expect(reasonOf(error)).toBe("REQUEST_TOO_LARGE");
  });
});

test.each([
  ["application/proto", 400],
  ["application/json", 400],
])("a body of %s that is garbage is the client's fault", async (type, status) => {
  const answer = await post("List", Buffer.from([255, 255, 255]), type);

  expect(answer.status).toBe(status);
  const { code, details } = await bodyOf(answer);
  expect(code).toBe("invalid_argument");
  expect(details[0]?.debug.reason).toBe("MALFORMED_REQUEST");
});

test.each(["connectPort", "grpcPort"] as const)("garbage in a gRPC body is the client's fault, on %s", async (port) => {
  const trailers = await rawGrpc(rig[port], Buffer.from([0, 0, 0, 0, 3, 255, 255, 255]));

  expect(String(trailers["grpc-status"])).toBe(String(Code.InvalidArgument));
  expect(trailers["grpc-status-details-bin"]).toBeTruthy();
});

test.each(["connectPort", "grpcPort"] as const)(
  "a stream of requests that is none is the client's fault, on %s",
  async (port) => {
    const path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    const logged = rig.log.length;

    const tooLarge = await rawGrpc(rig[port], Buffer.from([0, 0x7f, 255, 255, 255, 1]), path);
    const garbage = await rawGrpc(rig[port], Buffer.from([0, 0, 0, 0, 3, 255, 255, 255]), path);

    expect(String(tooLarge["grpc-status"])).toBe(String(Code.ResourceExhausted));
    expect(String(garbage["grpc-status"])).toBe(String(Code.InvalidArgument));
    expect(rig.log.slice(logged).filter(({ msg }) => msg === "a call failed by a bug")).toEqual([]);
  },
);

test("a small body that unpacks to a large one is too large", async () => {
  const answer = await fetch(`http://127.0.0.1:${rig.connectPort}/steward.v1.ServiceRegistry/List`, {
    method: "POST",
    headers: { "content-type": "application/json", "content-encoding": "gzip", authorization: `Bearer ${goodSecret}` },
    body: gzipSync(JSON.stringify({ filter: "x".repeat(limit * 10) })),
  });

  expect((await bodyOf(answer)).code).toBe("resource_exhausted");
});

test("a compressed body that is cut off is the client's fault", async () => {
  const answer = await fetch(`http://127.0.0.1:${rig.connectPort}/steward.v1.ServiceRegistry/List`, {
    method: "POST",
    headers: { "content-type": "application/json", "content-encoding": "gzip", authorization: `Bearer ${goodSecret}` },
    body: gzipSync("{}").subarray(0, -9),
  });

  expect((await bodyOf(answer)).code).toBe("invalid_argument");
});

test("an unknown method is 404 over Connect, in words that a script can read", async () => {
  const answer = await post("Nothing", "{}");

  expect(answer.status).toBe(404);
  const { code, details } = await bodyOf(answer);
  expect([code, details[0]?.debug.reason]).toEqual(["unimplemented", "METHOD_UNKNOWN"]);
});

test("a read is answered to a GET", async () => {
  const url = new URL(`http://127.0.0.1:${rig.connectPort}/steward.v1.ServiceRegistry/List`);
  url.search = new URLSearchParams({ encoding: "json", message: "{}", connect: "v1" }).toString();

  const answer = await fetch(url, { headers: { authorization: `Bearer ${goodSecret}` } });

  expect(await bodyOf(answer)).toEqual({ revision: "7" });
});

test("a wrong content type is refused and leaves no open call", async () => {
  const answer = await post("List", "<a/>", "text/xml");

  expect(answer.status).toBe(415);
  const gauge = rig.server.metrics.registry.getSingleMetric("steward_rpc_open_calls");
  await eventually(async () => {
    expect((await gauge?.get())?.values.filter(({ value }) => value !== 0)).toEqual([]);
    return true;
  });
});

test("the pages for machines", async () => {
  const page = async (path: string, init?: RequestInit) => {
    const answer = await fetch(`http://127.0.0.1:${rig.connectPort}${path}`, init);
    return [answer.status, await answer.text()] as const;
  };

  expect(await page("/healthz")).toEqual([200, "ok\n"]);
  expect(await page("/readyz?verbose")).toEqual([200, "ready\n"]);
  expect((await page("/healthz", { method: "POST" }))[0]).toBe(405);
  expect((await page("/elsewhere"))[0]).toBe(404);
  const [, metrics] = await page("/metrics");
  expect(metrics).toContain(
    'grpc_server_handled_total{grpc_type="unary",grpc_service="steward.v1.ServiceRegistry",grpc_method="Create",grpc_code="OK"}',
  );
  expect(metrics).toContain('grpc_server_handling_seconds_bucket{le="0.005"');
});

test("health asks for no token", async () => {
  const client = createClient(Health, transportOf(rig, "Connect JSON", ""));

  expect((await client.check({ service: "steward.v1.ServiceRegistry" })).status).toBe(1);
});

function post(method: string, body: string | Buffer, type = "application/json"): Promise<Response> {
  return fetch(`http://127.0.0.1:${rig.connectPort}/steward.v1.ServiceRegistry/${method}`, {
    method: "POST",
    headers: { "content-type": type, authorization: `Bearer ${goodSecret}` },
    body: typeof body === "string" ? body : new Uint8Array(body),
  });
}

interface ErrorBody {
  readonly code: string;
  readonly message: string;
  readonly details: readonly { debug: { reason?: string; fieldViolations?: readonly { field: string }[] } }[];
}

async function bodyOf(answer: Response): Promise<ErrorBody> {
  return (await answer.json()) as ErrorBody;
}

async function rawGrpc(
  port: number,
  body: Buffer,
  path = "/steward.v1.ServiceRegistry/List",
): Promise<Record<string, unknown>> {
  const session = http2Connect(`http://127.0.0.1:${port}`);
  const stream = session.request({
    ":method": "POST",
    ":path": path,
    "content-type": "application/grpc",
    te: "trailers",
    authorization: `Bearer ${goodSecret}`,
  });
  let headers: Record<string, unknown> = {};
  stream.on("response", (response) => (headers = { ...headers, ...response }));
  stream.on("trailers", (trailers) => (headers = { ...headers, ...trailers }));
  stream.resume();
  stream.end(body);
  await once(stream, "close");
  session.destroy();
  return headers;
}

function reasonOf(error: ConnectError): string | undefined {
  return error.findDetails(ErrorInfoSchema)[0]?.reason;
}
