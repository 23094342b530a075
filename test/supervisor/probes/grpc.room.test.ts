import { createServer as createHttpServer } from "node:http";
import { createServer as createHttp2Server, type ServerHttp2Stream } from "node:http2";
import { Server, ServerCredentials, type ServiceDefinition, status } from "@grpc/grpc-js";
import { afterEach, expect, test } from "vitest";
import type { Address } from "../../../src/supervisor/probes/address.ts";
import { grpcQuestion } from "../../../src/supervisor/probes/grpc.ts";
import { Neighbours, selfSigned } from "./neighbours.ts";

const neighbours = new Neighbours();
const servers: Server[] = [];
afterEach(() => {
  neighbours.close();
  for (const server of servers.splice(0)) server.forceShutdown();
});
const never = new AbortController().signal;
const ask = (address: Address, service = "", timeoutMs = 5_000) => grpcQuestion(address, service).ask(never, timeoutMs);

test.each([
  ["", 1, { kind: "yes", message: "it says SERVING" }],
  ["mail", 1, { kind: "yes", message: "it says SERVING" }],
  ["x".repeat(200), 1, { kind: "yes", message: "it says SERVING" }],
  ["mail", 2, { kind: "no", message: "it says NOT_SERVING" }],
  ["mail", 0, { kind: "no", message: "it says UNKNOWN" }],
  ["mail", 3, { kind: "no", message: "it says SERVICE_UNKNOWN" }],
])("the health of %j with status %i", async (service, serving, answer) => {
  const asked: string[] = [];
  const address = await healthServer(async (name) => {
    asked.push(name);
    return serving;
  });

  expect(await ask(address, service)).toEqual(answer);
  expect(asked).toEqual([service]);
});

test("TLS with a certificate of its own making is as good as any", async () => {
  const { key, cert } = selfSigned();
  const credentials = ServerCredentials.createSsl(null, [{ private_key: key, cert_chain: cert }]);
  const address = await healthServer(async () => 1, credentials);

  expect(await ask({ ...address, isTls: true })).toMatchObject({ kind: "yes" });
});

test("a service that the server does not know is a failure", async () => {
  const address = await healthServer(() => Promise.reject({ code: status.NOT_FOUND }));

  expect(await ask(address, "mail")).toEqual({ kind: "no", message: 'it does not know the service "mail"' });
});

test("a server without the health protocol is a failure", async () => {
  const address = await start(new Server());

  expect(await ask(address)).toEqual({ kind: "no", message: "it does not offer the health protocol" });
});

test("one that refuses with another status is a failure", async () => {
  const address = await healthServer(() => Promise.reject({ code: status.UNAVAILABLE }));

  expect(await ask(address)).toEqual({ kind: "no", message: "it answers gRPC status 14" });
});

test("one that never answers costs a try its time", async () => {
  const address = await healthServer(() => new Promise(() => undefined));

  expect(await ask(address, "", 200)).toEqual({ kind: "no", message: "no answer within 200 ms" });
  expect(await ask(await neighbours.silent(), "", 200)).toEqual({ kind: "no", message: "no answer within 200 ms" });
});

test("where nobody listens, or somebody speaks HTTP/1.1, is a failure", async () => {
  const plain = await neighbours.listen(createHttpServer((_, response) => response.end("hello")));

  expect(await ask(await neighbours.nobody())).toEqual({
    kind: "no",
    message: expect.stringMatching(/ECONNREFUSED/),
  });
  expect(await ask(plain)).toMatchObject({ kind: "no" });
});

test.each([
  ["answers without a status", (stream: ServerHttp2Stream) => stream.end("hello"), "it is no gRPC server"],
  ["floods", (stream: ServerHttp2Stream) => stream.end(Buffer.alloc(100_000)), /more than a health check/],
  ["resets the call", (stream: ServerHttp2Stream) => stream.close(7), /REFUSED_STREAM|status/],
  ["hangs up", (stream: ServerHttp2Stream) => stream.session?.destroy(), /clos|reset|ended|status/i],
])("an HTTP/2 server that %s is a failure", async (_, react, message) => {
  const server = createHttp2Server();
  server.on("stream", (stream) => {
    stream.on("error", () => undefined);
    stream.respond({ ":status": 200 });
    react(stream);
  });
  const address = await neighbours.listen(server);

  expect(await ask(address)).toEqual({ kind: "no", message: expect.stringMatching(message) });
});

const serviceText = 0x0a;

/** The health protocol by hand: both messages have one field. */
const health: ServiceDefinition = {
  Check: {
    path: "/grpc.health.v1.Health/Check",
    requestStream: false,
    responseStream: false,
    requestSerialize: () => Buffer.alloc(0),
    requestDeserialize: (bytes: Buffer) => {
      if (bytes.length === 0) return { service: "" };
      if (bytes[0] !== serviceText) throw new Error("not field 1");
      return { service: bytes.subarray((bytes[1] ?? 0) < 128 ? 2 : 3).toString() };
    },
    responseSerialize: (serving: number) => Buffer.from(serving === 0 ? [] : [8, serving]),
    responseDeserialize: (bytes: Buffer) => bytes[1] ?? 0,
  },
};

async function healthServer(
  answer: (service: string) => Promise<number>,
  credentials?: ServerCredentials,
): Promise<Address> {
  const server = new Server();
  server.addService(health, {
    Check: (call: { request: { service: string } }, reply: (error: object | null, serving?: number) => void) => {
      void answer(call.request.service).then(
        (serving) => reply(null, serving),
        (error: object) => reply(error),
      );
    },
  });
  return start(server, credentials);
}

async function start(server: Server, credentials = ServerCredentials.createInsecure()): Promise<Address> {
  servers.push(server);
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync("127.0.0.1:0", credentials, (error, bound) => (error === null ? resolve(bound) : reject(error))),
  );
  return { host: "127.0.0.1", port, isTls: false };
}
