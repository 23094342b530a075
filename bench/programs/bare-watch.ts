/** A grpc-js server that passes on what Postgres notifies to every open stream, and nothing else. */
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Server, ServerCredentials, type ServerWritableStream } from "@grpc/grpc-js";
import pg from "pg";
import { WatchEventsResponseSchema } from "../../gen/steward/v1/supervisor_pb.ts";

const streams = new Set<ServerWritableStream<Buffer, Buffer>>();
const listener = new pg.Client({ connectionString: process.argv[2] });
await listener.connect();
listener.on("notification", ({ payload }) => {
  const event = { revision: BigInt(payload ?? "0"), message: "what a bare stream carries" };
  const batch = { case: "batch" as const, value: { events: [event] } };
  const message = encoded({ message: batch });
  for (const stream of streams) stream.write(message);
});
await listener.query("LISTEN steward");

const server = new Server();
server.register(
  "/steward.v1.Supervisor/WatchEvents",
  (stream: ServerWritableStream<Buffer, Buffer>) => {
    streams.add(stream);
    stream.on("cancelled", () => streams.delete(stream));
    stream.write(encoded({ message: { case: "opened", value: {} } }));
  },
  (bytes: Buffer) => bytes,
  (bytes: Buffer) => bytes,
  "serverStream",
);
server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error;
  process.send?.([port]);
});

function encoded(response: MessageInitShape<typeof WatchEventsResponseSchema>): Buffer {
  return Buffer.from(toBinary(WatchEventsResponseSchema, create(WatchEventsResponseSchema, response)));
}
