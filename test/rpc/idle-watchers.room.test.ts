import { once } from "node:events";
import { Agent, request } from "node:http";
import { type ClientHttp2Session, connect } from "node:http2";
import { afterAll, beforeAll, expect, test } from "vitest";
import { TestSteward } from "../end-to-end/harness.ts";
import { eventually } from "../support/eventually.ts";
import { Heap } from "../support/heap.ts";
import { readMetrics, valueOf } from "../support/prometheus.ts";

const kibibyte = 1024;
/** What the first of them leave behind for all that follow is there before anything is measured. */
const firstWatchers = 100;
const moreWatchers = 400;
const watchEvents = "/steward.v1.Supervisor/WatchEvents";
const watchServices = "/steward.v1.ServiceRegistry/WatchServices";

let steward: TestSteward;
let heap: Heap;

beforeAll(async () => {
  steward = await TestSteward.start({ environment: { NODE_OPTIONS: "--inspect=127.0.0.1:0" } });
  heap = await Heap.of(steward.log);
});

afterAll(async () => {
  heap?.[Symbol.dispose]();
  await steward?.[Symbol.asyncDispose]();
});

test.each([
  ["gRPC on its own port", "grpc", "application/grpc"],
  ["gRPC on the Connect port", "connect", "application/grpc"],
  ["gRPC-Web over HTTP/2", "connect", "application/grpc-web+proto"],
  ["Connect over HTTP/2", "connect", "application/connect+proto"],
  ["Connect with JSON over HTTP/2", "connect", "application/connect+json"],
] as const)("who watches and is told nothing costs the server a few kilobytes: %s", async (_way, port, contentType) => {
  for (const path of [watchEvents, watchServices]) {
    const session = connect(steward.addresses[port]);

    const bytes = await heapOfWatcher(() => openOnSession(session, path, contentType));

    expect(bytes).toBeLessThan(14 * kibibyte);
    session.destroy();
    await nobodyWatches();
  }
});

test("who watches over HTTP/1.1 costs the server little more, the connection included", async () => {
  const agent = new Agent();

  const bytes = await heapOfWatcher(() => openOnConnection(agent));

  expect(bytes).toBeLessThan(20 * kibibyte);
  agent.destroy();
  await nobodyWatches();
});

async function heapOfWatcher(open: () => Promise<unknown>): Promise<number> {
  await Promise.all(Array.from({ length: firstWatchers }, open));
  const before = await settledBytes();
  await Promise.all(Array.from({ length: moreWatchers }, open));
  return ((await settledBytes()) - before) / moreWatchers;
}

/** What is in use when nothing more goes: snapshots are still read for the last watchers, and what has a finalizer goes after that. */
async function settledBytes(): Promise<number> {
  let last = Number.POSITIVE_INFINITY;
  return await eventually(
    async () => {
      const used = await heap.usedBytes();
      const isSettled = Math.abs(last - used) < 16 * kibibyte;
      last = used;
      return isSettled && used;
    },
    { everyMs: 100 },
  );
}

/** Resolves when the watch has told of its beginning. */
function openOnSession(session: ClientHttp2Session, path: string, contentType: string): Promise<unknown> {
  const stream = session.request({ ":method": "POST", ":path": path, ...headers(contentType) });
  stream.on("error", () => undefined);
  stream.end(emptyRequest(contentType));
  return once(stream, "data");
}

async function openOnConnection(agent: Agent): Promise<void> {
  const contentType = "application/connect+json";
  const url = steward.addresses.connect + watchEvents;
  const call = request(url, { agent, method: "POST", headers: headers(contentType) });
  call.end(emptyRequest(contentType));
  const [response] = await once(call, "response");
  response.on("error", () => undefined);
  await once(response, "data");
}

function headers(contentType: string) {
  return { "content-type": contentType, authorization: `Bearer ${steward.adminToken}` };
}

function emptyRequest(contentType: string): Buffer {
  const message = Buffer.from(contentType.endsWith("json") ? "{}" : "");
  return Buffer.concat([Buffer.from([0, 0, 0, 0, message.length]), message]);
}

async function nobodyWatches(): Promise<void> {
  await eventually(async () => valueOf(await readMetrics(steward.addresses.connect), "steward_rpc_open_calls") === 0);
}
