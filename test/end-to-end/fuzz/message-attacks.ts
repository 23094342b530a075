import { deflateSync, gzipSync } from "node:zlib";
import { create, toBinary } from "@bufbuild/protobuf";
import { CreateRequestSchema } from "../../../gen/steward/v1/service_registry_pb.ts";
import { data, grpcMessage } from "../../support/http2-frames.ts";
import type { Random } from "../../support/random.ts";
import type { Assault } from "./assault.ts";
import { greet, open } from "./http2-attacks.ts";

/** What is sent by those whose connections and frames are in order, and whose messages are not. */
export const messageAttacks = {
  async "messages of gRPC that are none"(assault: Assault): Promise<void> {
    const { random } = assault;
    const body = random.bytes(0, 200);
    const bytes = random.one([
      () => grpcMessage(body, { length: random.one([0, 1, body.length + 1, 2 ** 32 - 1, 2 ** 31, 5 * 2 ** 20]) }),
      () => grpcMessage(body, { flag: random.one([1, 2, 128, 255]) }),
      () => Buffer.concat([grpcMessage(Buffer.alloc(0)), random.bytes(1, 100)]),
      () => Buffer.concat(Array.from({ length: random.integer(2, 500) }, () => grpcMessage(Buffer.alloc(0)))),
      () => Buffer.alloc(random.integer(0, 4)),
      () => random.bytes(0, 300),
      () => grpcMessage(Buffer.alloc(random.integer(4, 10) * 2 ** 20)),
    ]);
    await callGrpc(assault, bytes());
  },

  async "compressed messages that are none, or too much"(assault: Assault): Promise<void> {
    const { random } = assault;
    const encoding = random.one(["gzip", "deflate", "br", "identity", "snappy"]);
    const pack = encoding === "deflate" ? deflateSync : gzipSync;
    const bytes = random.one([
      () => random.bytes(0, 100),
      () => pack(Buffer.alloc(random.integer(5, 60) * 2 ** 20)),
      () => pack(random.bytes(0, 2000)).subarray(0, -random.integer(1, 12)),
      () => random.damaged(pack(random.bytes(100, 2000))),
      () => Buffer.concat([pack(Buffer.alloc(0)), random.bytes(1, 50)]),
    ]);
    await callGrpc(assault, grpcMessage(bytes(), { flag: 1 }), [["grpc-encoding", encoding]]);
  },

  async "protobuf that is none"(assault: Assault): Promise<void> {
    const { random } = assault;
    await callGrpc(assault, grpcMessage(random.damaged(someRequest(random))));
  },

  async "protobuf that is deep"(assault: Assault): Promise<void> {
    const { random } = assault;
    const depth = random.integer(10, 20_000);
    const bytes = random.one([
      () => Buffer.alloc(depth, 0x0b),
      () => nested(depth),
      () => Buffer.concat([Buffer.from([0x0a]), nested(Math.min(depth, 90))]),
    ]);
    await callGrpc(assault, grpcMessage(bytes()));
  },

  async "JSON that is a bomb"(assault: Assault): Promise<void> {
    const { random } = assault;
    const depth = random.integer(10, 100_000);
    const odd = random.one(["\ud83d", "\ufffe", "\0", "__proto__", "constructor", "\u202e", "é".repeat(500)]);
    const info = random.one([
      () => `${"[".repeat(depth)}${"]".repeat(depth)}`,
      () => `${'{"a":'.repeat(depth)}1${"}".repeat(depth)}`,
      () => "[".repeat(depth),
      () => `1e${random.integer(300, 1_000_000)}`,
      () => "9".repeat(random.integer(20, 100_000)),
      () => `-${"0".repeat(random.integer(1, 10_000))}1`,
      () => JSON.stringify({ [odd]: odd }),
      () => `{${Array.from({ length: random.integer(2, 5000) }, () => '"a":1').join()}}`,
      () => `"${"\\u0000".repeat(random.integer(1, 100_000))}"`,
      () => "null",
    ])();
    const body = random.one([
      () => `{"serviceId":"bomb","service":{"spec":{"external":{},"info":{"a":${info}}}}}`,
      () => `{"serviceId":${info}}`,
      () => `{${JSON.stringify(odd)}:${info}}`,
      () => info,
      () => `\ufeff{"pageSize":${info}}`,
    ])();
    await callJson(assault, random.one(["Create", "List", "Get", "Apply", "IssueToken"]), body);
  },

  async "texts that break what quotes them"(assault: Assault): Promise<void> {
    const { random } = assault;
    const text = Array.from({ length: random.integer(1, 400) }, () =>
      random.one(["😀", "\ud83d", "\0", "%", "'", '"', "\\", "\n", "a", "(", " AND ", "=", "*", ":"]),
    ).join("");
    const [method, request] = random.one([
      ["List", { filter: text }],
      ["List", { orderBy: text }],
      ["List", { pageToken: text }],
      ["Get", { name: text }],
      ["Create", { serviceId: text, service: { spec: { external: {}, url: text, labels: { [text]: text } } } }],
      ["IssueToken", { note: text, scopes: [text] }],
    ] as const);
    await callJson(
      assault,
      method,
      JSON.stringify({ ...request, validateOnly: method === "Create" || method === "IssueToken" ? true : undefined }),
    );
  },
};

async function callGrpc(
  assault: Assault,
  bytes: Buffer,
  more: readonly (readonly [string, string])[] = [],
): Promise<void> {
  const socket = await greet(assault);
  await assault.send(
    socket,
    Buffer.concat([open(assault, 1, { more }), data(1, bytes, { ends: assault.random.chance(80) })]),
  );
  await assault.leave(socket);
}

/** Over HTTP/1.1, or over HTTP/2 as gRPC with JSON. */
async function callJson(assault: Assault, method: string, body: string): Promise<void> {
  const { random, secret } = assault;
  const path = `/steward.v1.ServiceRegistry/${method}`;
  const bytes = Buffer.from(body);
  if (random.chance(40)) {
    const socket = await greet(assault);
    await assault.send(
      socket,
      Buffer.concat([open(assault, 1, { path, contentType: "application/grpc+json" }), data(1, grpcMessage(bytes))]),
    );
    await assault.leave(socket);
    return;
  }
  const socket = await assault.connect();
  const head = [
    `POST ${path} HTTP/1.1`,
    "host: x",
    `authorization: Bearer ${secret}`,
    "content-type: application/json",
    `content-length: ${bytes.length}`,
  ];
  await assault.send(socket, Buffer.concat([Buffer.from(`${head.join("\r\n")}\r\n\r\n`), bytes]));
  await assault.leave(socket);
}

function someRequest(random: Random): Buffer {
  const request = create(CreateRequestSchema, {
    serviceId: "x".repeat(random.integer(0, 80)),
    validateOnly: true,
    service: {
      spec: {
        url: "http://127.0.0.1:1",
        labels: { a: "b" },
        info: { a: [1, "b", null] },
        kind: { case: "managed", value: { command: ["a", "b"], environment: { A: "b" }, stopGrace: { seconds: 1n } } },
      },
    },
  });
  return Buffer.from(toBinary(CreateRequestSchema, request));
}

/** Field 1 within field 1 within field 1. */
function nested(depth: number): Buffer {
  let bytes = Buffer.alloc(0);
  for (let level = 0; level < Math.min(depth, 3000); level += 1)
    bytes = Buffer.concat([Buffer.from([0x12]), varint(bytes.length), bytes]);
  return bytes;
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let left = value;
  for (; left >= 128; left = Math.floor(left / 128)) bytes.push((left % 128) + 128);
  return Buffer.from([...bytes, left]);
}
