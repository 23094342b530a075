import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ServiceRegistry } from "../../gen/steward/v1/service_registry_pb.ts";
import { TestSteward } from "./harness.ts";
import { clientsOf } from "./transports.ts";

let steward: TestSteward;

beforeAll(async () => {
  steward = await TestSteward.start();
});

afterAll(async () => {
  await steward?.[Symbol.asyncDispose]();
});

describe("JSON that does not fit is refused, naming what is wrong, and changes nothing:", () => {
  const managed = (spec: object) => ({
    serviceId: "json",
    service: { spec: { managed: { command: ["sleep"] }, ...spec } },
  });

  test.each([
    { what: "an unknown field", body: managed({ colour: "red" }), field: "colour" },
    { what: "an unknown field of the request", body: { ...managed({}), force: true }, field: "force" },
    { what: "a number for a text", body: managed({ url: 8080 }), field: "url" },
    { what: "a text for a truth value", body: managed({ admin: "yes" }), field: "admin" },
    { what: "a list for a map", body: managed({ labels: ["a"] }), field: "labels" },
    {
      what: "a text for a list",
      body: { serviceId: "json", service: { spec: { managed: { command: "sleep 1" } } } },
      field: "command",
    },
    {
      what: "a duration without a unit",
      body: managed({ managed: { command: ["sleep"], stopGrace: "10" } }),
      field: "",
    },
    {
      what: "an unknown enum value",
      body: managed({ managed: { command: ["sleep"], restartPolicy: { mode: "SOMETIMES" } } }),
      field: "",
    },
    { what: "both kinds", body: managed({ external: {} }), field: "kind" },
    { what: "a list", body: [], field: "" },
    { what: "half of an object", body: '{"serviceId": "json"', field: "" },
    { what: "no JSON at all", body: "\u0000\u0001", field: "" },
  ])("$what", async ({ body, field }) => {
    const before = await headOf(steward);

    const { status, error } = await post("/steward.v1.ServiceRegistry/Create", body);

    expect(status).toBe(400);
    expect(error.code).toBe("invalid_argument");
    expect(JSON.stringify(error.details)).toContain("MALFORMED_REQUEST");
    expect(error.message).toContain(field);
    expect(await headOf(steward)).toBe(before);
  });

  test("a method that does not exist", async () => {
    const { status, error } = await post("/steward.v1.ServiceRegistry/Explode", {});

    expect({ status, code: error.code }).toEqual({ status: 404, code: "unimplemented" });
  });
});

describe("bytes that are no protobuf are refused as the client's mistake:", () => {
  const garbage = Buffer.from("ffffffffff00ff", "hex");

  test("over Connect", async () => {
    const { status, error } = await post("/steward.v1.ServiceRegistry/Create", garbage, "application/proto");

    expect({ status, code: error.code }).toEqual({ status: 400, code: "invalid_argument" });
  });

  test.each(["connect", "grpc"] as const)("over gRPC on the %s listener", async (listener) => {
    const broken = brokenClient(steward.addresses[listener], steward.adminToken, garbage);

    await expect(broken.create({ serviceId: "x" })).rejects.toMatchObject({ code: 3 });
  });
});

describe.each(["connect", "grpc"] as const)(
  "whatever bytes arrive at the %s port, it goes on serving others:",
  (listener) => {
    test.each([
      { what: "noise", bytes: Buffer.from("\u0000\u0001\u0002noise\r\n\r\n") },
      { what: "half of an HTTP/2 preface and noise", bytes: Buffer.from("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n") },
      {
        what: "a preface and frames of noise",
        bytes: Buffer.from(`PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${"\u00ff".repeat(200)}`, "latin1"),
      },
      { what: "a TLS greeting", bytes: Buffer.from("16030100a5010000a10303", "hex") },
      { what: "an HTTP/1.1 request line without an end", bytes: Buffer.from(`GET /${"a".repeat(100_000)}`) },
      {
        what: "an HTTP/1.1 request of two lengths",
        bytes: Buffer.from("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
      },
    ])("$what", async ({ bytes }) => {
      const socket = await open(steward.addresses[listener]);
      socket.write(bytes);
      socket.end();
      socket.resume();
      await closed(socket);

      const name = listener === "connect" ? "Connect with JSON over HTTP/1.1" : "gRPC on the gRPC listener";
      const { admin } = await clientsOf(name, steward.addresses, steward.adminToken).registry.whoAmI({});

      expect(admin).toBe(true);
    });
  },
);

test("nothing of it was a bug of ours: no call ended as INTERNAL", () => {
  expect(steward.log).not.toContain("a call failed by a bug");
  expect(steward.log).not.toContain("uncaught");
});

interface Answer {
  readonly status: number;
  readonly error: { readonly code: string; readonly message: string; readonly details: unknown };
}

async function post(path: string, body: unknown, type = "application/json"): Promise<Answer> {
  const text = typeof body === "string" || Buffer.isBuffer(body) ? body : JSON.stringify(body);
  const response = await fetch(`${steward.addresses.connect}${path}`, {
    method: "POST",
    headers: { "content-type": type, authorization: `Bearer ${steward.adminToken}` },
    body: typeof text === "string" ? text : new Uint8Array(text),
  });
  return { status: response.status, error: (await response.json()) as Answer["error"] };
}

async function headOf({ addresses, adminToken }: TestSteward): Promise<bigint> {
  return (await clientsOf("gRPC on the gRPC listener", addresses, adminToken).registry.list({})).revision;
}

/** A gRPC client that sends garbage in well-formed frames. */
function brokenClient(baseUrl: string, token: string, garbage: Uint8Array) {
  const transport = createGrpcTransport({
    baseUrl,
    interceptors: [
      (next) => (request) => {
        request.header.set("authorization", `Bearer ${token}`);
        return next(request);
      },
    ],
    binaryOptions: { writeUnknownFields: true },
  });
  const client = createClient(ServiceRegistry, transport);
  return {
    create: (request: { serviceId: string }) =>
      client.create({
        ...request,
        $unknown: [{ no: 2, wireType: 2, data: new Uint8Array([garbage.length, ...garbage]) }],
      }),
  };
}

/** A reset is an end like any other here. */
function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.once("close", () => resolve()));
}

async function open(address: string): Promise<Socket> {
  const { hostname, port } = new URL(address);
  const socket = connect(Number(port), hostname);
  socket.on("error", () => undefined);
  await once(socket, "connect");
  return socket;
}
