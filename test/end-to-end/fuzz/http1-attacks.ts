import { preface } from "../../support/http2-frames.ts";
import type { Random } from "../../support/random.ts";
import type { Assault } from "./assault.ts";

/** What is sent to a port by those who speak no protocol, another one, or HTTP/1.1 wrongly. */
export const http1Attacks = {
  async noise(assault: Assault): Promise<void> {
    const socket = await assault.connect();
    await assault.send(socket, assault.random.bytes(1, 20_000));
    await assault.leave(socket);
  },

  async silence(assault: Assault): Promise<void> {
    await assault.leave(await assault.connect());
  },

  async "a greeting of TLS"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await assault.connect();
    const hello = Buffer.concat([Buffer.from("1603010200010001fc0303", "hex"), random.bytes(0, 600)]);
    await assault.send(socket, random.chance(50) ? hello : random.damaged(hello));
    await assault.leave(socket);
  },

  async "a damaged preface"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await assault.connect();
    const begin = random.chance(50)
      ? preface.subarray(0, random.integer(1, preface.length))
      : random.damaged(preface, 1);
    await assault.send(socket, Buffer.concat([begin, random.bytes(0, 200)]));
    await assault.leave(socket);
  },

  async "a request byte by byte"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await assault.connect();
    const whole = random.one([preface, requestOf(assault)]);
    await assault.drip(socket, whole.subarray(0, random.integer(1, whole.length)), random.integer(0, 3));
    await assault.leave(socket);
  },

  async "a damaged request"(assault: Assault): Promise<void> {
    const socket = await assault.connect();
    await assault.send(socket, assault.random.damaged(requestOf(assault)));
    await assault.leave(socket);
  },

  async "headers without an end"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await assault.connect();
    const line = random.one([
      () => `GET /${"a".repeat(random.integer(1, 200_000))}`,
      () => `GET / HTTP/1.1\r\n${"x: y\r\n".repeat(random.integer(1, 20_000))}`,
      () => `GET / HTTP/1.1\r\nx: ${"y".repeat(random.integer(1, 200_000))}`,
      () => `GET / HTTP/1.1\r\n${"n".repeat(random.integer(1, 100_000))}`,
    ]);
    await assault.send(socket, Buffer.from(line()));
    await assault.leave(socket);
  },

  async "bodies that are not what they say"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await assault.connect();
    const head = `POST ${random.one(methods)} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer ${assault.secret}\r\n`;
    const body = random.one([
      () => "content-length: 1\r\ncontent-length: 2\r\n\r\n{}",
      () => `content-length: ${"9".repeat(random.integer(1, 40))}\r\n\r\n{}`,
      () => `content-length: -${random.integer(0, 9)}\r\n\r\n{}`,
      () => "content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
      () => `transfer-encoding: chunked\r\n\r\n${"f".repeat(random.integer(1, 30))}\r\n{}`,
      () => "transfer-encoding: chunked\r\n\r\n1;".padEnd(random.integer(100, 40_000), "x"),
      () => `transfer-encoding: chunked\r\n\r\n${"1\r\n{\r\n".repeat(random.integer(1, 5000))}`,
      () => "transfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
      () => `content-length: 100\r\nexpect: ${random.one(["100-continue", "200-ok"])}\r\n\r\n`,
    ]);
    await assault.send(socket, Buffer.from(head + body()));
    await assault.leave(socket);
  },

  async "many requests at once, whose answers nobody reads"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await assault.connect();
    const one = random.one([() => requestOf(assault), () => Buffer.from("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")])();
    await assault.send(socket, Buffer.concat(Array.from({ length: random.integer(2, 100) }, () => one)));
    await assault.leave(socket);
  },

  async "methods and paths that nobody has"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await assault.connect();
    const method = random.one([
      "GET",
      "HEAD",
      "POST",
      "PUT",
      "DELETE",
      "OPTIONS",
      "TRACE",
      "CONNECT",
      "PATCH",
      "PRI",
      "M-SEARCH",
    ]);
    const path = random.one([
      "*",
      "/",
      "//",
      "/../../etc/passwd",
      "/%",
      "/%00",
      "/healthz?",
      "x:80",
      "http://x/healthz",
      "/a".repeat(2000),
      ...methods,
    ]);
    const extra = random.one([
      "",
      "upgrade: websocket\r\nconnection: upgrade\r\n",
      "upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABk\r\n",
      "connection: close\r\n",
    ]);
    const version = random.one(["HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/9.9"]);
    await assault.send(socket, Buffer.from(`${method} ${path} ${version}\r\nhost: x\r\n${extra}\r\n`));
    await assault.leave(socket);
  },

  async "calls in the query of a GET"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await assault.connect();
    const message = random.one([
      () => "{}",
      () => "%%%",
      () => random.bytes(0, 500).toString("base64url"),
      () => encodeURIComponent("[".repeat(1000)),
    ])();
    const query = [
      "connect=v1",
      `encoding=${random.one(["json", "proto", "xml", ""])}`,
      `message=${message}`,
      random.one(["base64=1", "base64=2", ""]),
      random.one(["compression=gzip", "compression=x", ""]),
    ];
    await assault.send(
      socket,
      Buffer.from(
        `GET ${random.one(methods)}?${query.join("&")} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${assault.secret}\r\n\r\n`,
      ),
    );
    await assault.leave(socket);
  },
};

export const methods = [
  "/steward.v1.ServiceRegistry/Create",
  "/steward.v1.ServiceRegistry/List",
  "/steward.v1.ServiceRegistry/Get",
  "/steward.v1.ServiceRegistry/WatchServices",
  "/steward.v1.Supervisor/WatchEvents",
  "/steward.v1.Supervisor/ListEvents",
  "/grpc.health.v1.Health/Check",
  "/grpc.health.v1.Health/Watch",
  "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
  "/steward.v1.ServiceRegistry/Explode",
] as const;

/** A request over HTTP/1.1 that is in order, with a body of any kind. */
function requestOf({ random, secret }: Assault): Buffer {
  const body = bodyOf(random);
  const type = random.one([
    "application/json",
    "application/proto",
    "application/connect+json",
    "application/connect+proto",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc",
    "text/plain",
  ]);
  const headers = [
    "host: x",
    `content-type: ${type}`,
    `content-length: ${body.length}`,
    ...random.one([[], [`authorization: Bearer ${secret}`]]),
  ];
  return Buffer.concat([Buffer.from(`POST ${random.one(methods)} HTTP/1.1\r\n${headers.join("\r\n")}\r\n\r\n`), body]);
}

function bodyOf(random: Random): Buffer {
  return random.one([
    () => Buffer.from("{}"),
    () => Buffer.alloc(5),
    () => random.bytes(0, 300),
    () => Buffer.alloc(0),
  ])();
}
