import { connect as http2Connect } from "node:http2";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";
import { EventSchema } from "../../gen/steward/v1/event_pb.ts";
import { WatchServicesRequestSchema, WatchServicesResponseSchema } from "../../gen/steward/v1/service_registry_pb.ts";
import {
  WaitCondition,
  WatchEventsRequestSchema,
  WatchEventsResponseSchema,
} from "../../gen/steward/v1/supervisor_pb.ts";
import { external, managed } from "./bad-requests.ts";
import { TestSteward } from "./harness.ts";
import { type Clients, clientsOf, transports } from "./transports.ts";

let steward: TestSteward;
let admin: Clients;

beforeAll(async () => {
  steward = await TestSteward.start();
  admin = clientsOf("gRPC on the gRPC listener", steward.addresses, steward.adminToken);
});

afterAll(async () => {
  await steward?.[Symbol.asyncDispose]();
});

/** The ways in whose messages travel in frames of one form. */
const ways = [
  ["connect", "application/connect+proto"],
  ["connect", "application/grpc-web+proto"],
  ["connect", "application/grpc"],
  ["grpc", "application/grpc"],
] as const;

test("a watch of the past is the same bytes, whatever brings it", async () => {
  const head = await makeHistory("past");
  const request = toBinary(
    WatchEventsRequestSchema,
    create(WatchEventsRequestSchema, { after: {}, includeServices: true }),
  );
  const isLast = (bytes: Uint8Array) => {
    const { cursor, message } = fromBinary(WatchEventsResponseSchema, bytes);
    return message.case === "batch" && (cursor?.revision ?? 0n) >= head;
  };

  const heard = await Promise.all(
    ways.map(([listener, type]) => frames(listener, type, "/steward.v1.Supervisor/WatchEvents", request, isLast)),
  );

  const [first = [], ...others] = heard;
  expect(first.length).toBeGreaterThanOrEqual(1);
  for (const other of others) expect(other).toEqual(first);
});

test("a snapshot is the same bytes, whatever brings it", async () => {
  const head = await makeHistory("snapshot");
  const request = toBinary(WatchServicesRequestSchema, create(WatchServicesRequestSchema, {}));
  const isLast = (bytes: Uint8Array) => fromBinary(WatchServicesResponseSchema, bytes).message.case === "snapshotEnd";

  const heard = await Promise.all(
    ways.map(([listener, type]) =>
      frames(listener, type, "/steward.v1.ServiceRegistry/WatchServices", request, isLast),
    ),
  );

  const [first = [], ...others] = heard;
  const end = fromBinary(WatchServicesResponseSchema, first.at(-1) ?? Buffer.alloc(0));
  expect(end.cursor?.revision).toBeGreaterThanOrEqual(head);
  for (const other of others) expect(other).toEqual(first);
});

test("events that come while they are watched are the same bytes as those that are read afterwards, over every way in", async () => {
  const { revision: before } = await admin.registry.list({});
  const watches = transports.map(async (name) => {
    const { supervisor } = clientsOf(name, steward.addresses, steward.adminToken);
    const bytes: string[] = [];
    for await (const { cursor, message } of supervisor.watchEvents({
      after: { revision: before },
      includeServices: true,
    })) {
      if (message.case !== "batch") continue;
      bytes.push(...message.value.events.map((event) => Buffer.from(toBinary(EventSchema, event)).toString("hex")));
      if (head !== undefined && (cursor?.revision ?? 0n) >= head) return bytes;
    }
    throw new Error("the watch ended");
  });

  let head: bigint | undefined;
  head = await makeHistory("live");
  await admin.registry.delete({ name: "the-last-live" });
  const heard = await Promise.all(watches);
  const { events } = await admin.supervisor.listEvents({ after: { revision: before }, pageSize: 1000 });

  const shortest = Math.min(...heard.map((bytes) => bytes.length));
  expect(shortest).toBeGreaterThan(10);
  for (const bytes of heard) expect(bytes.slice(0, shortest)).toEqual(heard[0]?.slice(0, shortest));
  expect(events.slice(0, shortest).map(({ revision, index }) => [revision, index])).toEqual(
    heard[0]?.slice(0, shortest).map((hex) => {
      const { revision, index } = fromBinary(EventSchema, Buffer.from(hex, "hex"));
      return [revision, index];
    }),
  );
});

/** Things of most kinds; returns the revision of the last. */
async function makeHistory(key: string): Promise<bigint> {
  const { registry, supervisor } = admin;
  for (const each of ["a", "b"])
    await registry.create({ serviceId: `${key}-${each}`, service: { spec: external({ labels: { team: "data" } }) } });
  await registry.update({ service: { name: `${key}-a`, spec: { labels: { team: "Ärger 😀" } } } });
  await registry.issueToken({ service: `${key}-b` });
  await registry.delete({ name: `${key}-b` });
  const command = ["sleep", "1000"];
  const spec = managed({ command, minReady: { nanos: 1 } });
  const { revision: minRevision } = await registry.create({ serviceId: `${key}-run`, service: { spec } });
  await supervisor.wait({ name: `${key}-run`, condition: WaitCondition.READY, minRevision });
  const { revision: deleted } = await registry.delete({ name: `${key}-run`, force: true });
  await supervisor.wait({ name: `${key}-run`, condition: WaitCondition.DELETED, minRevision: deleted });
  return (await registry.create({ serviceId: `the-last-${key}`, service: { spec: external() } })).revision;
}

/** The messages of a stream as they travel, up to one; but for the first, which tells of the moment at which it began. */
function frames(
  listener: "connect" | "grpc",
  contentType: string,
  path: string,
  request: Uint8Array,
  isLast: (message: Uint8Array) => boolean,
): Promise<Buffer[]> {
  const session = http2Connect(steward.addresses[listener]);
  const stream = session.request({
    ":method": "POST",
    ":path": path,
    "content-type": contentType,
    authorization: `Bearer ${steward.adminToken}`,
  });
  const head = Buffer.alloc(5);
  head.writeUInt32BE(request.length, 1);
  stream.end(Buffer.concat([head, request]));
  return new Promise((resolve, reject) => {
    const messages: Buffer[] = [];
    let unread: Buffer = Buffer.alloc(0);
    stream.on("error", reject);
    stream.on("data", (chunk: Buffer) => {
      unread = Buffer.concat([unread, chunk]);
      while (unread.length >= 5 && unread.length >= 5 + unread.readUInt32BE(1)) {
        if (unread[0] !== 0) return reject(new Error(`a frame with the flags ${unread[0]}`));
        const end = 5 + unread.readUInt32BE(1);
        const message = unread.subarray(5, end);
        messages.push(message);
        unread = unread.subarray(end);
        if (!isLast(message)) continue;
        session.destroy();
        return resolve(messages.slice(1));
      }
    });
    stream.on("end", () => reject(new Error("the stream ended")));
  });
}
