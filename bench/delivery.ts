import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Client, type ClientReadableStream, credentials, Metadata } from "@grpc/grpc-js";
import { WatchEventsRequestSchema, WatchEventsResponseSchema } from "../gen/steward/v1/supervisor_pb.ts";
import { BenchPostgres } from "./database.ts";
import { EventWriter } from "./event-writer.ts";
import { type Figure, figureAlone, figureOf, type Measure, percentile, type Round } from "./figure.ts";
import { BareProgram, withSteward } from "./scene.ts";

const eventsARound = 60;
const many = 100;

/**
 * From the statement that appends an event, its commit included, to each watcher, against a bare server on grpc-js that passes on what Postgres
 * notifies. Each event is awaited by all before the next, so no queue is measured.
 */
export const measureDelivery: Measure = async ({ rounds }) => {
  await using postgres = await BenchPostgres.start();
  return await withSteward({ "database-url": postgres.url }, async ({ steward }) => {
    await using bare = await BareProgram.start("bare-watch", postgres.url);
    await using writer = await EventWriter.connect(postgres);
    const ours = { address: new URL(steward.addresses.grpc).host, token: steward.adminToken };
    const theirs = { address: `127.0.0.1:${bare.ports[0]}`, token: "" };
    const figures: Figure[] = [];
    for (const watchers of [1, many]) {
      await deliver(ours, watchers, writer);
      await deliver(theirs, watchers, writer);
      const measured: { ours: number[]; bare: number[] }[] = [];
      for (let round = 0; round < rounds; round++) {
        measured.push({ bare: await deliver(theirs, watchers, writer), ours: await deliver(ours, watchers, writer) });
      }
      for (const [word, part] of [
        ["p50", 0.5],
        ["p99", 0.99],
      ] as const) {
        const results: Round[] = measured.map((each) => ({
          ours: percentile(each.ours, part),
          bare: percentile(each.bare, part),
        }));
        const name = `event to ${watchers} watcher${watchers === 1 ? "" : "s"}, ${word}`;
        const figure = figureOf({ name, unit: "ms", aim: { atMost: 3 } }, results);
        figures.push(figure);
        if (watchers === many && word === "p99")
          figures.push(figureAlone({ name: "  for itself", unit: "ms", aim: { atMost: 20 } }, figure.ours));
      }
    }
    return figures;
  });
};

interface Server {
  readonly address: string;
  readonly token: string;
}

/** The times, in ms, that events took to each of so many watchers. */
async function deliver(server: Server, count: number, writer: EventWriter): Promise<number[]> {
  const client = new Client(server.address, credentials.createInsecure());
  try {
    const watchers = await Promise.all(Array.from({ length: count }, () => Watcher.open(client, server.token)));
    const times: number[] = [];
    for (let event = 0; event < eventsARound; event++) {
      const { revision, atMs } = await writer.append();
      const arrivals = await Promise.all(watchers.map((watcher) => watcher.arrival(revision)));
      times.push(...arrivals.map((arrivedMs) => arrivedMs - atMs));
    }
    for (const watcher of watchers) watcher.cancel();
    return times;
  } finally {
    client.close();
  }
}

/** One stream, and when each revision came. */
class Watcher {
  readonly #stream: ClientReadableStream<Buffer>;
  readonly #arrivals = new Map<bigint, number>();
  readonly #opened = Promise.withResolvers<void>();
  #wake: (() => void) | undefined;

  private constructor(client: Client, token: string) {
    const metadata = new Metadata();
    metadata.set("authorization", `Bearer ${token}`);
    const request = Buffer.from(toBinary(WatchEventsRequestSchema, create(WatchEventsRequestSchema)));
    const same = (bytes: Buffer) => bytes;
    const path = "/steward.v1.Supervisor/WatchEvents";
    this.#stream = client.makeServerStreamRequest(path, same, same, request, metadata);
    this.#stream.on("data", (bytes: Buffer) => this.#received(bytes));
    this.#stream.on("error", (error) => this.#opened.reject(error));
  }

  static async open(client: Client, token: string): Promise<Watcher> {
    const watcher = new Watcher(client, token);
    await watcher.#opened.promise;
    return watcher;
  }

  async arrival(revision: bigint): Promise<number> {
    for (;;) {
      const arrivedMs = this.#arrivals.get(revision);
      if (arrivedMs !== undefined) return arrivedMs;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  cancel(): void {
    this.#stream.cancel();
  }

  #received(bytes: Buffer): void {
    const arrivedMs = performance.timeOrigin + performance.now();
    const { message } = fromBinary(WatchEventsResponseSchema, bytes);
    if (message.case === "opened") this.#opened.resolve();
    if (message.case === "batch")
      for (const { revision } of message.value.events) this.#arrivals.set(revision, arrivedMs);
    this.#wake?.();
  }
}
