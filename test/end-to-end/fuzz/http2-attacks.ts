import type { Socket } from "node:net";
import {
  data,
  endHeaders,
  endStream,
  frame,
  frameTypes,
  grpcMessage,
  headerBlock,
  newestRemembered,
  preface,
  rememberedHeader,
  reset,
  settings,
  windowUpdate,
} from "../../support/http2-frames.ts";
import type { Random } from "../../support/random.ts";
import type { Assault } from "./assault.ts";
import { methods } from "./http1-attacks.ts";

/** What is sent by those who speak HTTP/2 wrongly, or too much. */
export const http2Attacks = {
  async "frames of noise"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await greet(assault);
    const frames = Array.from({ length: random.integer(1, 200) }, () => randomFrame(random));
    await assault.send(socket, Buffer.concat(frames));
    await assault.leave(socket);
  },

  async "frames whose lengths lie"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await greet(assault);
    const payload = random.bytes(0, 2000);
    const length = random.one([0, 1, 16_384, 16_385, 2 ** 24 - 1, random.integer(0, 4000)]);
    await assault.send(
      socket,
      frame({
        type: random.integer(0, 10),
        flags: random.integer(0, 255),
        stream: random.integer(0, 3),
        payload,
        length,
      }),
    );
    await assault.leave(socket);
  },

  async "a damaged call"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await assault.connect();
    const call = Buffer.concat([preface, settings(), open(assault, 1), data(1, grpcMessage(random.bytes(0, 50)))]);
    const damaged = Buffer.concat([call.subarray(0, preface.length), random.damaged(call.subarray(preface.length))]);
    await assault.send(socket, damaged);
    await assault.leave(socket);
  },

  async "calls that are reset at once"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await greet(assault);
    const count = random.integer(10, 3000);
    const withBody = random.chance(50);
    const frames = Array.from({ length: count }, (_, index) => {
      const stream = 2 * index + 1;
      const body = withBody ? data(stream, grpcMessage(Buffer.alloc(0))) : Buffer.alloc(0);
      return Buffer.concat([open(assault, stream), body, reset(stream, random.one([0, 8, 5]))]);
    });
    await assault.send(socket, Buffer.concat(frames));
    await assault.leave(socket);
  },

  async "continuations without an end"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await greet(assault);
    const piece = random.one([Buffer.alloc(0), headerBlock([["x", "y".repeat(random.integer(1, 16_000))]])]);
    const type = frameTypes.continuation;
    const frames = Array.from({ length: random.integer(10, 2000) }, () => frame({ type, stream: 1, payload: piece }));
    await assault.send(socket, Buffer.concat([open(assault, 1, { isWhole: false }), ...frames].slice(0, 2000)));
    await assault.leave(socket);
  },

  async "one frame a thousand times"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await greet(assault);
    const one = random.one([
      () => frame({ type: frameTypes.ping, payload: Buffer.alloc(8) }),
      () => settings({ 4: random.integer(0, 2 ** 31 - 1) }),
      () => settings({ [random.integer(0, 20)]: random.integer(0, 2 ** 32 - 1) }),
      () => settings({ 1: random.integer(0, 100_000) }),
      () => windowUpdate(0, random.integer(0, 2 ** 31 - 1)),
      () => frame({ type: frameTypes.priority, stream: random.integer(1, 1000), payload: Buffer.alloc(5) }),
      () => frame({ type: frameTypes.data, stream: 1 }),
      () => frame({ type: frameTypes.goAway, payload: Buffer.alloc(8) }),
      () => frame({ type: random.integer(10, 255), payload: Buffer.alloc(100) }),
    ])();
    const begin = random.chance(50) ? open(assault, 1) : Buffer.alloc(0);
    await assault.send(socket, Buffer.concat([begin, ...Array.from({ length: random.integer(100, 5000) }, () => one)]));
    await assault.leave(socket);
  },

  async "small blocks that unpack to large headers"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await greet(assault);
    const block = Buffer.concat([
      headerBlock([
        [":method", "POST"],
        [":path", random.one(methods)],
        [":scheme", "http"],
        ["content-type", "application/grpc"],
      ]),
      rememberedHeader("x", "y".repeat(3000)),
      ...Array.from({ length: random.integer(10, 10_000) }, () => newestRemembered),
    ]);
    await assault.send(
      socket,
      frame({ type: frameTypes.headers, stream: 1, payload: block.subarray(0, 16_000), flags: endHeaders }),
    );
    await assault.leave(socket);
  },

  async "many calls that are never whole"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await greet(assault);
    const frames = Array.from({ length: random.integer(10, 1200) }, (_, index) => {
      const stream = 2 * index + 1;
      return Buffer.concat([
        open(assault, stream),
        data(stream, grpcMessage(random.bytes(0, 100), { length: 1000 }), { ends: false }),
      ]);
    });
    await assault.send(socket, Buffer.concat(frames));
    await assault.leave(socket);
  },

  async "many answers that nobody reads"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await assault.connect();
    const frames = Array.from({ length: random.integer(10, 300) }, (_, index) => {
      const stream = 2 * index + 1;
      return Buffer.concat([open(assault, stream), data(stream, grpcMessage(Buffer.alloc(0)))]);
    });
    await assault.send(socket, Buffer.concat([preface, settings({ 4: random.one([0, 1, 100, 65_535]) }), ...frames]));
    await assault.leave(socket);
  },

  async "headers that mean nothing"(assault: Assault): Promise<void> {
    const { random } = assault;
    const socket = await greet(assault);
    const headers: [string, string | Buffer][] = [
      [":method", random.one(["POST", "GET", "CONNECT", "", "post"])],
      [":path", random.one([...methods, "", "*", "/", "a", "/\u0000", "/%"])],
      [":scheme", random.one(["http", "https", "", "file"])],
      [random.one([":authority", "host", ":method", ":status", "x"]), random.one(["x", "", "a b", "\r\n"])],
      [
        "content-type",
        random.one([
          "application/grpc",
          "application/grpc+json",
          "application/grpc+",
          "application/grpc-web",
          "application/proto",
          "application/json",
          "",
          "text/html",
        ]),
      ],
      [
        "authorization",
        random.one([`Bearer ${assault.secret}`, "Bearer", "", "Bearer ".padEnd(6000, "x"), random.bytes(0, 40)]),
      ],
      ["grpc-timeout", random.one(["1S", "99999999H", "-1S", "", "1", "999999999999999S", random.bytes(0, 8)])],
      ["grpc-encoding", random.one(["identity", "gzip", "deflate", "br", "snappy", "", random.bytes(0, 8)])],
      ["grpc-accept-encoding", random.one(["gzip", "x,,,,", random.bytes(0, 8)])],
      ["x-request-id", random.one(["a", "", "x".repeat(5000), "a\nb", random.bytes(0, 40)])],
      [
        random.one(["traceparent", "te", "connection", "UPPER", "", "steward-call", "x-bin", "cookie"]),
        random.bytes(0, 100),
      ],
      ["content-length", random.one(["0", "5", "-1", "99999999999999999999", "x"])],
    ];
    const kept = headers.filter(() => random.chance(80));
    const body = data(1, grpcMessage(random.bytes(0, 20)));
    await assault.send(
      socket,
      Buffer.concat([
        frame({ type: frameTypes.headers, stream: 1, payload: headerBlock(kept), flags: endHeaders }),
        body,
      ]),
    );
    await assault.leave(socket);
  },
};

/** A connection on which HTTP/2 has begun in order. */
export async function greet(assault: Assault): Promise<Socket> {
  const socket = await assault.connect();
  await assault.send(socket, Buffer.concat([preface, settings()]));
  return socket;
}

interface OpenOptions {
  readonly isWhole?: boolean;
  readonly path?: string;
  readonly contentType?: string;
  readonly more?: readonly (readonly [name: string, value: string])[];
}

/** The headers of a call of gRPC, most often with a token. */
export function open(
  { random, secret }: Assault,
  stream: number,
  { isWhole = true, path = random.one(methods), contentType = "application/grpc", more = [] }: OpenOptions = {},
): Buffer {
  const payload = headerBlock([
    [":method", "POST"],
    [":path", path],
    [":scheme", "http"],
    [":authority", "x"],
    ["content-type", contentType],
    ["te", "trailers"],
    ...(random.chance(80) ? [["authorization", `Bearer ${secret}`] as const] : []),
    ...more,
  ]);
  return frame({ type: frameTypes.headers, stream, payload, flags: isWhole ? endHeaders : 0 });
}

function randomFrame(random: Random): Buffer {
  return frame({
    type: random.integer(0, 12),
    flags: random.one([0, endStream, endHeaders, endStream | endHeaders, random.integer(0, 255)]),
    stream: random.one([0, 1, 2, 3, 5, random.integer(0, 2 ** 31 - 1)]),
    payload: random.bytes(0, random.one([0, 4, 5, 8, 300])),
  });
}
