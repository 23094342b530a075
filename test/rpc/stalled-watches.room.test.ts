import { once } from "node:events";
import { request as http1Request, type IncomingMessage } from "node:http";
import { connect as http2Connect } from "node:http2";
import type { Readable } from "node:stream";
import { Client, credentials, Metadata, status } from "@grpc/grpc-js";
import { describe, expect, test } from "vitest";
import { WatchServicesResponseSchema } from "../../gen/steward/v1/service_registry_pb.ts";
import { Shared } from "../../src/rpc/handler.ts";
import { eventually } from "../support/eventually.ts";
import { readMetrics, valueOf } from "../support/prometheus.ts";
import { goodSecret, openCalls, type RegistryHandlers, type Rig, registryClient, startRig } from "./rig.ts";

const small = { cursor: { revision: 1n, storeUid: "x".repeat(1000) } };
const large = { cursor: { revision: 2n, storeUid: "x".repeat(1_000_000) } };
const sharedSmall = new Shared(WatchServicesResponseSchema, () => small);
const sharedLarge = new Shared(WatchServicesResponseSchema, () => large);

const stalledMs = 500;

// Without windows of HTTP/2 the kernel holds megabytes and tells the server of room only when a third of them has been read, which takes its time
// where much else runs.
const listeners = [
  { name: "gRPC on its own port", port: "grpcPort", type: "application/grpc", http: 2, stalledMs },
  { name: "gRPC on the Connect port", port: "connectPort", type: "application/grpc", http: 2, stalledMs },
  { name: "Connect over HTTP/2", port: "connectPort", type: "application/connect+proto", http: 2, stalledMs },
  {
    name: "Connect over HTTP/1.1",
    port: "connectPort",
    type: "application/connect+proto",
    http: 1,
    stalledMs: 4 * stalledMs,
  },
] as const;

describe.each(listeners)("$name", (listener) => {
  const { stalledMs } = listener;

  test.each([
    ["messages", small],
    ["shared messages", sharedSmall],
    ["large shared messages", sharedLarge],
  ])("a watch of %s is cut when its client stops reading; one that is read slowly goes on", async (_what, message) => {
    await using rig = await startRig({ watchServices: endless(message) }, { limits: { stalledMs } });
    using slow = await open(rig, listener);
    slow.sip();
    using stalled = await open(rig, listener);

    await eventually(() => rig.calls[1]?.signal.aborted);
    await eventually(async () => (await openCalls(rig)) === 1);

    expect(rig.log).toEqual([expect.objectContaining({ requestId: rig.calls[1]?.callId, code: "ResourceExhausted" })]);
    expect(await timesTooSlow(rig)).toBe(1);
    await stalled.whenCut();
    const before = slow.bytesRead();
    await eventually(() => slow.bytesRead() > before + 1_000_000);
    expect(rig.calls[0]?.signal.aborted).toBe(false);
    slow[Symbol.dispose]();
    await eventually(async () => (await openCalls(rig)) === 0);
    expect(await timesTooSlow(rig)).toBe(1);
  });

  test("a stream that is no watch may stand still", async () => {
    await using rig = await startRig(
      { watchServices: endless(sharedSmall) },
      { limits: { stalledMs }, isWatch: false },
    );
    await using watches = await startRig({ watchServices: endless(sharedSmall) }, { limits: { stalledMs } });
    using _patient = await open(rig, listener);
    await standsStill(rig);
    using _stalled = await open(watches, listener);

    await eventually(() => watches.calls[0]?.signal.aborted);

    expect(rig.calls[0]?.signal.aborted).toBe(false);
    expect(await openCalls(rig)).toBe(1);
  });
});

// The client of connect-es says so only if it reads at that moment; else it has nothing but the error of its stream.
test.each(["grpcPort", "connectPort"] as const)("a client of grpc-js on %s reads why it was cut", async (port) => {
  await using rig = await startRig({ watchServices: endless(sharedSmall) }, { limits: { stalledMs } });
  const client = new Client(`127.0.0.1:${rig[port]}`, credentials.createInsecure());
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${goodSecret}`);
  const stream = client.makeServerStreamRequest(path, unchanged, unchanged, Buffer.alloc(0), metadata);
  const failed = once(stream, "error");
  // grpc-js holds nothing back before its reader has looked for the first time.
  await once(stream, "readable");

  await eventually(() => rig.calls[0]?.signal.aborted);
  stream.resume();

  expect((await failed)[0]).toMatchObject({ code: status.RESOURCE_EXHAUSTED });
  client.close();
});

test("a watch that waits for something to tell is not cut", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  await using rig = await startRig(
    {
      async *watchServices() {
        yield sharedSmall;
        await promise;
        yield sharedSmall;
      },
    },
    { limits: { stalledMs } },
  );
  const stream = registryClient(rig, "gRPC on grpc-js").watchServices({})[Symbol.asyncIterator]();
  await stream.next();
  await using others = await startRig({ watchServices: endless(sharedSmall) }, { limits: { stalledMs } });
  using _stalled = await open(others, listeners[0]);
  await eventually(() => others.calls[0]?.signal.aborted);

  resolve();

  expect((await stream.next()).done).toBe(false);
  expect((await stream.next()).done).toBe(true);
});

/** The response of a watch, read by nobody but the test. */
interface RawWatch extends Disposable {
  /** Reads a little now and then, from now on. */
  sip(): void;
  bytesRead(): number;
  /** Resolves when the client has been told by a reset, or the end of the connection. */
  whenCut(): Promise<void>;
}

async function open(rig: Rig, { port, type, http }: (typeof listeners)[number]): Promise<RawWatch> {
  const known = rig.calls.length;
  const watch = http === 2 ? openHttp2(rig[port], type) : await openHttp1(rig[port], type);
  await eventually(() => rig.calls.length > known);
  return watch;
}

function openHttp2(port: number, type: string): RawWatch {
  const session = http2Connect(`http://127.0.0.1:${port}`);
  session.on("error", () => undefined);
  const stream = session.request({ ":method": "POST", ":path": path, ...headers(type) });
  stream.on("error", () => undefined);
  stream.end(emptyRequest);
  return {
    ...sipping(stream),
    whenCut: () => eventually(() => stream.closed && stream.rstCode === 11).then(() => undefined),
    [Symbol.dispose]: () => session.destroy(),
  };
}

async function openHttp1(port: number, type: string): Promise<RawWatch> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const request = http1Request({ port, path, method: "POST", headers: headers(type) }, resolve);
  request.on("error", reject);
  request.end(emptyRequest);
  const response = await promise;
  response.on("error", () => undefined);
  return {
    ...gulping(response),
    whenCut: async () => {
      response.resume();
      await eventually(() => response.destroyed);
      expect(response.complete).toBe(false);
    },
    [Symbol.dispose]: () => request.destroy(),
  };
}

type Reading = Pick<RawWatch, "sip" | "bytesRead">;

/** Reads a little again and again: a large message takes two thirds of a second, longer than it may stand still. */
function sipping(stream: Readable): Reading {
  let bytesRead = 0;
  return {
    sip() {
      const timer = setInterval(() => (bytesRead += stream.read(16 * 1024)?.length ?? 0), 10);
      stream.once("close", () => clearInterval(timer));
    },
    bytesRead: () => bytesRead,
  };
}

/** Reads what the kernel may hold at once, as fast as it can, and then for a while nothing. */
function gulping(stream: Readable): Reading {
  const gulp = 8 * 1024 * 1024;
  let bytesRead = 0;
  return {
    sip() {
      let until = gulp;
      stream.on("data", (bytes: Buffer) => {
        bytesRead += bytes.length;
        if (bytesRead < until) return;
        until = bytesRead + gulp;
        stream.pause();
        setTimeout(() => stream.resume(), 100);
      });
    },
    bytesRead: () => bytesRead,
  };
}

const path = "/steward.v1.ServiceRegistry/WatchServices";
const emptyRequest = Buffer.from([0, 0, 0, 0, 0]);

function headers(type: string) {
  return { "content-type": type, authorization: `Bearer ${goodSecret}` };
}

function endless(message: typeof small | typeof sharedSmall): RegistryHandlers["watchServices"] {
  return async function* () {
    yield sharedSmall;
    for (;;) yield message;
  };
}

async function standsStill(rig: Rig): Promise<void> {
  let last = -1;
  await eventually(
    async () => {
      const sent = await sentBy(rig);
      const isStill = sent > 0 && sent === last;
      last = sent;
      return isStill;
    },
    { everyMs: 100 },
  );
}

async function sentBy(rig: Rig): Promise<number> {
  const labels = { grpc_method: "WatchServices" };
  return valueOf(await readMetrics(originOf(rig)), "grpc_server_msg_sent_total", labels) ?? 0;
}

async function timesTooSlow(rig: Rig): Promise<number> {
  return valueOf(await readMetrics(originOf(rig)), "steward_rpc_errors_total", { reason: "WATCHER_TOO_SLOW" }) ?? 0;
}

function originOf({ connectPort }: Rig): string {
  return `http://127.0.0.1:${connectPort}`;
}

function unchanged(bytes: Buffer): Buffer {
  return bytes;
}
