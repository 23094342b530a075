/** Any number of watchers, in a process of its own and as thin as can be, so that what they cost is not measured as the server's. */
import { type ClientHttp2Session, connect } from "node:http2";
import { fromBinary } from "@bufbuild/protobuf";
import { WatchEventsResponseSchema } from "../../gen/steward/v1/supervisor_pb.ts";
import type { WatchersOrder } from "../watchers.ts";

const streamsAConnection = 500;
/** Streams that are opened at a time. */
const openedAtOnce = 50;

const order: WatchersOrder = JSON.parse(process.argv[2] ?? "");
const body = Buffer.from(order.body, "base64");
const sessions: ClientHttp2Session[] = [];
/** The last message of each watcher. It is only read when somebody asks what the watcher has seen. */
const latest: Buffer[] = [];
/** The revision that was asked for, and the watchers that have not reached it yet. */
let wanted: { readonly revision: bigint; readonly missing: Set<number> } | undefined;

for (let first = 0; first < order.count; first += openedAtOnce) {
  const group = Array.from({ length: Math.min(openedAtOnce, order.count - first) }, (_, offset) =>
    open(first + offset),
  );
  await Promise.all(group);
}
process.on("message", (revision: string) => {
  wanted = { revision: BigInt(revision), missing: new Set(latest.keys()) };
  for (const [index, message] of latest.entries()) look(index, message);
});
process.send?.("opened");

/** Resolves with the first message of the stream. */
function open(index: number): Promise<void> {
  const session = (sessions[Math.floor(index / streamsAConnection)] ??= connect(order.origin));
  const token = order.tokens[index % order.tokens.length] ?? "";
  const stream = session.request({
    ":method": "POST",
    ":path": "/steward.v1.Supervisor/WatchEvents",
    ...order.headers,
    ...(token === "" ? {} : { authorization: `Bearer ${token}` }),
  });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const read = reader((message) => {
    resolve();
    latest[index] = message;
    if (wanted !== undefined) look(index, message);
  });
  stream.on("data", read);
  stream.on("error", reject);
  stream.on("close", () => reject(new Error("the watch has ended")));
  stream.end(body);
  return promise;
}

function look(index: number, message: Buffer): void {
  if (wanted === undefined || !wanted.missing.has(index)) return;
  if ((fromBinary(WatchEventsResponseSchema, message).cursor?.revision ?? 0n) < wanted.revision) return;
  wanted.missing.delete(index);
  if (wanted.missing.size > 0) return;
  wanted = undefined;
  process.send?.("seen");
}

/** Finds the messages of one stream: a flag, a length and that many bytes, as all the protocols have it. */
function reader(take: (message: Buffer) => void): (chunk: Buffer) => void {
  let rest: Buffer = Buffer.alloc(0);
  return (chunk) => {
    let left = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    while (left.length >= 5 && left.length >= 5 + left.readUInt32BE(1)) {
      const end = 5 + left.readUInt32BE(1);
      if (left[0] !== 0) throw new Error(`the watch has ended: ${left.toString("utf8", 5, end)}`);
      take(left.subarray(5, end));
      left = left.subarray(end);
    }
    rest = left;
  };
}
