import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect as http2Connect } from "node:http2";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { expect, onTestFinished, test } from "vitest";
import { createStewardClient, ErrorReason } from "../../src/client.ts";
import { eventually } from "../support/eventually.ts";
import { goodSecret, registryClient, startRig } from "./rig.ts";

const body = "{}";
const http1Request = [
  "POST /steward.v1.ServiceRegistry/List HTTP/1.1",
  "host: x",
  `authorization: Bearer ${goodSecret}`,
  "content-type: application/json",
  `content-length: ${body.length}`,
  "",
  body,
].join("\r\n");

const http2Preface = Buffer.concat([
  Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]),
]);

test("one port takes HTTP/1.1 and HTTP/2, one byte at a time", async () => {
  await using rig = await startRig();

  const http1 = await dial(rig.connectPort);
  await trickle(http1, Buffer.from(http1Request));
  expect(await received(http1, /"revision":"7"/)).toContain("HTTP/1.1 200");

  const http2 = await dial(rig.connectPort);
  await trickle(http2, http2Preface);
  // The server's own SETTINGS frame, then the acknowledgement of ours.
  const answer = Buffer.from(await received(http2, /\0\0\0\x04\x01\0\0\0\0/), "latin1");
  expect(answer[3]).toBe(4);
});

test("what is neither is answered with 400 or dropped, and the port lives on", async () => {
  await using rig = await startRig();

  for (const garbage of [
    "\0\x01\x02\xff\r\n\r\n",
    "PRI * HTTP/1.1\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    "\x16\x03\x01\x02\0\x01\0\x01\xfc",
  ]) {
    const socket = await dial(rig.connectPort);
    socket.end(Buffer.from(garbage, "latin1"));
    const chunks: Buffer[] = [];
    socket.on("data", (chunk: Buffer) => chunks.push(chunk));
    await eventually(() => socket.destroyed);
    expect(Buffer.concat(chunks).toString()).toMatch(/^($|HTTP\/1\.1 400)/);
  }

  for (const port of [rig.connectPort, rig.grpcPort]) {
    const socket = await dial(port);
    socket.on("error", () => undefined);
    socket.write(Buffer.from("GARBAGE garbage garbage garbage garbage\r\n\r\n"));
    socket.resume();
    await eventually(() => socket.destroyed);
  }
  expect((await registryClient(rig, "Connect JSON").list({})).revision).toBe(7n);
  expect((await registryClient(rig, "gRPC on grpc-js").list({})).revision).toBe(7n);
});

test("who connects and says nothing, or too little, is dropped", async () => {
  await using rig = await startRig(
    {},
    { limits: { firstByteMs: 200, headersMs: 400, requestMs: 400, pingEveryMs: 200, pingTimeoutMs: 200 } },
  );

  for (const [port, first] of [
    [rig.connectPort, ""],
    [rig.connectPort, "PRI * HT"],
    [rig.connectPort, "POST /x HTTP/1.1\r\nhost:"],
    [rig.grpcPort, ""],
  ] as const) {
    const socket = await dial(port);
    socket.on("error", () => undefined).resume();
    socket.write(first);
    await eventually(() => socket.destroyed);
  }
});

test("a connection that answers no ping is dropped, one that does stays", async () => {
  await using rig = await startRig({}, { limits: { pingEveryMs: 100, pingTimeoutMs: 100 } });
  const live = http2Connect(`http://127.0.0.1:${rig.connectPort}`);
  await once(live, "connect");

  const dead = await dial(rig.connectPort);
  dead.write(http2Preface);
  dead.on("error", () => undefined).resume();
  await eventually(() => dead.destroyed);

  expect(live.destroyed).toBe(false);
  live.destroy();
});

test("an old connection is asked to go and calls on it still finish", async () => {
  await using rig = await startRig(
    {
      list: async () => {
        await delay(600);
        return { revision: 1n };
      },
    },
    { limits: { connectionAgeMs: 200 } },
  );

  for (const port of [rig.connectPort, rig.grpcPort]) {
    const session = http2Connect(`http://127.0.0.1:${port}`);
    const goneAway = once(session, "goaway");
    const stream = session.request({
      ":method": "POST",
      ":path": "/steward.v1.ServiceRegistry/List",
      "content-type": "application/grpc",
      authorization: `Bearer ${goodSecret}`,
    });
    stream.end(Buffer.from([0, 0, 0, 0, 0]));
    stream.resume();

    await goneAway;
    const [trailers] = await once(stream, "trailers");

    expect(String(trailers["grpc-status"])).toBe("0");
    await eventually(() => session.destroyed);
  }
});

test("an old HTTP/1.1 connection ends with the answer to its next request", async () => {
  await using rig = await startRig({}, { limits: { connectionAgeMs: 200 } });
  const socket = await dial(rig.connectPort);
  let answers = "";
  socket.on("data", (chunk: Buffer) => (answers += chunk.toString("latin1")));

  await eventually(() => {
    if (!socket.writableEnded && !socket.destroyed) socket.write(http1Request);
    return /connection: close/i.test(answers);
  });

  expect(answers).toMatch(/^HTTP\/1\.1 200 OK\r\n[^{]*connection: keep-alive/i);
  await eventually(() => socket.destroyed);
});

test("a Unix socket speaks everything too, for our own user alone, behind the same gate", async () => {
  const directory = mkdtempSync(join(tmpdir(), "steward-socket-"));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "steward.sock");
  // As a server that was killed leaves it.
  writeFileSync(path, "");
  await using rig = await startRig({}, { local: { path } });
  expect(statSync(path).mode & 0o777).toBe(0o600);

  for (const protocol of ["connect", "grpc"] as const) {
    using client = createStewardClient({ address: `unix:${path}`, token: goodSecret, protocol });
    expect((await client.registry.list({})).revision).toBe(7n);
    expect(rig.calls.at(-1)?.peer).toBe("local");
    using stranger = createStewardClient({ address: `unix://${path}`, protocol });
    await expect(stranger.registry.list({})).rejects.toMatchObject({ reason: ErrorReason.TOKEN_MISSING });
  }
  const http1 = connect(path);
  http1.write(http1Request);
  expect(await received(http1, /"revision":"7"/)).toContain("HTTP/1.1 200");

  await rig.server.stop();
  expect(existsSync(path)).toBe(false);
});

test.each(["connectPort", "grpcPort"] as const)(
  "1500 stalled streams on one connection leave the others alive, on %s",
  { timeout: 180_000 },
  async (port) => {
    const message = { cursor: { storeUid: "x".repeat(2000), revision: 1n } };
    await using rig = await startRig(
      {
        async *watchServices(_request, { signal }) {
          while (!signal.aborted) yield message;
        },
      },
      { limits: { streamsPerConnection: 2000, streamsPerPrincipal: 2000 } },
    );
    const session = http2Connect(`http://127.0.0.1:${rig[port]}`, {
      settings: { initialWindowSize: 16_384 },
      maxSessionMemory: 1000,
    });
    await once(session, "remoteSettings");
    session.on("error", () => undefined);
    let failed = 0;
    const open = (path: string) => {
      const stream = session.request({
        ":method": "POST",
        ":path": `/steward.v1.ServiceRegistry/${path}`,
        "content-type": "application/grpc",
        authorization: `Bearer ${goodSecret}`,
      });
      stream.on("error", () => (failed += 1));
      stream.end(Buffer.from([0, 0, 0, 0, 0]));
      return stream;
    };
    for (let index = 0; index < 1500; index += 1) open("WatchServices");
    await eventually(() => rig.calls.length === 1500, { timeoutMs: 150_000 });

    const healthy = open("List");
    healthy.resume();
    const [trailers] = await once(healthy, "trailers");

    expect(String(trailers["grpc-status"])).toBe("0");
    expect(failed).toBe(0);
    session.destroy();
  },
);

test("a port that is taken is a clear error, and nothing stays open", async () => {
  await using rig = await startRig();

  await expect(startRig({}, { connect: { port: rig.connectPort } })).rejects.toThrow("EADDRINUSE");
});

async function dial(port: number): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  return socket.setNoDelay(true);
}

async function trickle(socket: Socket, bytes: Buffer): Promise<void> {
  for (const byte of bytes) {
    socket.write(Buffer.from([byte]));
    await delay(1);
  }
}

async function received(socket: Socket, expected: RegExp): Promise<string> {
  let text = "";
  socket.on("data", (chunk: Buffer) => (text += chunk.toString("latin1")));
  await eventually(() => expected.test(text));
  socket.destroy();
  return text;
}
