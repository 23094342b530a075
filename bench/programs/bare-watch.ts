/** A grpc-js server, and a plain HTTP/2 server, that pass on what Postgres notifies to every open stream, and nothing else. */
import { createServer, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Server, ServerCredentials, type ServerWritableStream } from "@grpc/grpc-js";
import pg from "pg";
import { WatchEventsResponseSchema } from "../../gen/steward/v1/supervisor_pb.ts";
import { framed } from "../load.ts";

const streams = new Set<ServerWritableStream<Buffer, Buffer>>();
const plainStreams = new Set<ServerHttp2Stream>();
const listener = new pg.Client({ connectionString: process.argv[2] });
await listener.connect();
listener.on("notification", ({ payload }) => {
  const revision = BigInt(payload ?? "0");
  const event = { revision, message: "what a bare stream carries" };
  const batch = { case: "batch" as const, value: { events: [event] } };
  const message = encoded({ cursor: { revision }, message: batch });
  for (const stream of streams) stream.write(message);
  const frame = framed(message);
  for (const stream of plainStreams) stream.write(frame);
});
await listener.query("LISTEN steward");
const opened = encoded({ message: { case: "opened", value: {} } });

const server = new Server();
server.register(
  "/steward.v1.Supervisor/WatchEvents",
  (stream: ServerWritableStream<Buffer, Buffer>) => {
    streams.add(stream);
    stream.on("cancelled", () => streams.delete(stream));
    stream.write(opened);
  },
  (bytes: Buffer) => bytes,
  (bytes: Buffer) => bytes,
  "serverStream",
);
server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error;
  const plain = createServer().on("stream", watchPlainly);
  plain.listen(0, "127.0.0.1", () => process.send?.([port, (plain.address() as AddressInfo).port]));
});

function watchPlainly(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
  plainStreams.add(stream);
  stream.on("close", () => plainStreams.delete(stream));
  stream.on("error", () => undefined);
  stream.resume();
  stream.respond({ ":status": 200, "content-type": headers["content-type"] });
  stream.write(framed(opened));
}

function encoded(response: MessageInitShape<typeof WatchEventsResponseSchema>): Buffer {
  return Buffer.from(toBinary(WatchEventsResponseSchema, create(WatchEventsResponseSchema, response)));
}
