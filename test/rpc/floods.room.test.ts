import { once } from "node:events";
import { constants, connect as http2Connect } from "node:http2";
import { connect } from "node:net";
import { Gauge } from "prom-client";
import { expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import {
  data,
  endHeaders,
  frame,
  frameTypes,
  grpcMessage,
  headerBlock,
  preface,
  settings,
} from "../support/http2-frames.ts";
import { goodSecret, openCalls, registryClient, startRig } from "./rig.ts";

test.each(["connectPort", "grpcPort"] as const)(
  "calls that are reset before they were looked at end alone, on %s",
  async (port) => {
    await using rig = await startRig();
    const session = http2Connect(`http://127.0.0.1:${rig[port]}`);
    await once(session, "connect");

    for (const path of [
      "/steward.v1.ServiceRegistry/Explode",
      "/steward.v1.ServiceRegistry/List",
      "/healthz",
      "/nothing",
    ]) {
      for (const authorization of [`Bearer ${goodSecret}`, "Bearer wrong"]) {
        const headers = { ":method": "POST", ":path": path, "content-type": "application/grpc", authorization };
        for (let count = 0; count < 20; count += 1) {
          const stream = session.request(headers).on("error", () => undefined);
          // In the same packet as its headers.
          stream.close(constants.NGHTTP2_CANCEL);
        }
      }
    }
    const ping = Promise.withResolvers<void>();
    session.ping(() => ping.resolve());
    await ping.promise;

    expect((await registryClient(rig, port === "grpcPort" ? "gRPC on grpc-js" : "gRPC").list({})).revision).toBe(7n);
    expect(rig.log.filter(({ level }) => Number(level) >= 50)).toEqual([]);
    // Those whose streams were gone already are no calls, and the others have ended.
    await eventually(async () => (await openCalls(rig)) === 0);
    session.destroy();
  },
);

test("a request that meets a bug of ours ends alone, and the log has it whole", async () => {
  await using rig = await startRig(
    {},
    {
      fallback: () => {
        throw new Error("a bug of a page");
      },
    },
  );

  await expect(fetch(`http://127.0.0.1:${rig.connectPort}/page`)).rejects.toThrow();

  expect((await fetch(`http://127.0.0.1:${rig.connectPort}/healthz`)).status).toBe(200);
  expect(rig.log).toMatchObject([
    { msg: "a request failed by a bug", path: "/page", err: { message: "a bug of a page" } },
  ]);
});

test("of a thousand refusals the log tells some, and how many it left out", async () => {
  await using rig = await startRig();
  const stranger = registryClient(rig, "gRPC on grpc-js", "sts_wrong");
  const begunMs = performance.now();

  for (let round = 0; round < 10; round += 1)
    await Promise.all(Array.from({ length: 100 }, () => stranger.list({}).catch(() => undefined)));

  const lines = rig.log.length;
  // Some at once, then ten a second.
  const allowed = 200 + ((performance.now() - begunMs) / 1000) * 10;
  expect(lines).toBeGreaterThanOrEqual(200);
  expect(lines).toBeLessThanOrEqual(allowed + 1);
  let refusals = 1000;
  await eventually(async () => {
    refusals += 1;
    await stranger.list({}).catch(() => undefined);
    return rig.log.length > lines;
  });
  const omitted = rig.log.reduce((sum, line) => sum + Number(line["omitted"]), 0);
  expect(rig.log.length + omitted).toBe(refusals);
});

test("metrics that are asked for a hundred times in one packet are made once", async () => {
  let renderings = 0;
  await using rig = await startRig();
  const { registry } = rig.server.metrics;
  new Gauge({ name: "renderings", help: "How often.", registers: [registry], collect: () => void (renderings += 1) });
  const socket = connect(rig.connectPort, "127.0.0.1");
  let answers = "";
  socket.on("data", (data: Buffer) => (answers += data.toString("latin1")));

  socket.write("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100));
  await eventually(() => answers.match(/HTTP\/1\.1 200 OK/g)?.length === 100);
  socket.destroy();

  expect(renderings).toBe(1);
});

test("clients that hang up while their calls over HTTP/1.1 are refused end alone", async () => {
  await using rig = await startRig();
  // Streams both ways, which HTTP/1.1 cannot: refused without a look at the body.
  const call = `POST /grpc.reflection.v1.ServerReflection/ServerReflectionInfo HTTP/1.1\r\nhost: x\r\ncontent-type: application/connect+json\r\ncontent-length: 50\r\n\r\n`;

  for (let count = 0; count < 200; count += 1) {
    const socket = connect(rig.connectPort, "127.0.0.1").on("error", () => undefined);
    await once(socket, "connect");
    socket.write(`${call}{`);
    if (count % 2 === 0) await once(socket, "data");
    socket.resetAndDestroy();
  }

  expect((await registryClient(rig, "Connect JSON").list({})).revision).toBe(7n);
});

test.each(["connectPort", "grpcPort"] as const)(
  "a client that closes its side of a connection takes its calls with it, on %s",
  async (port) => {
    await using rig = await startRig({
      async *watchServices(_request, { signal }) {
        yield { cursor: { revision: 1n } };
        await once(signal, "abort");
      },
    });
    const socket = connect({ port: rig[port], host: "127.0.0.1", allowHalfOpen: true });
    const headers = headerBlock([
      [":method", "POST"],
      [":path", "/steward.v1.ServiceRegistry/WatchServices"],
      [":scheme", "http"],
      [":authority", "x"],
      ["content-type", "application/grpc"],
      ["authorization", `Bearer ${goodSecret}`],
    ]);
    const call = frame({ type: frameTypes.headers, stream: 1, payload: headers, flags: endHeaders });
    socket.write(Buffer.concat([preface, settings(), call, data(1, grpcMessage(Buffer.alloc(0)))]));
    await eventually(() => rig.calls.length === 1);

    socket.end();

    await eventually(async () => (await openCalls(rig)) === 0);
    await eventually(() => rig.calls[0]?.signal.aborted);
    socket.destroy();
  },
);
