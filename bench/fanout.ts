import { setTimeout as delay } from "node:timers/promises";
import { BenchPostgres } from "./database.ts";
import { EventWriter } from "./event-writer.ts";
import { type Figure, figureAlone, figureOf, type Measure, median, percentile } from "./figure.ts";
import { getCaller } from "./get-caller.ts";
import { BareProgram, cpuMsOf, type Scene, withSteward } from "./scene.ts";
import { tokensFor, Watchers, type WatchProtocol } from "./watchers.ts";

const watcherCount = 2_000;
const eventsASecond = 10;
const roundMs = 3_000;
const callEveryMs = 5;

/**
 * Ten events a second to two thousand watchers: what one delivery costs of the server's CPU, against a bare server that writes a message which was
 * encoded once to as many streams; and how long unary calls take meanwhile. The first round of each compiles what serves it.
 */
export const measureFanout: Measure = async ({ rounds }) => {
  await using postgres = await BenchPostgres.start();
  return await withSteward({ "database-url": postgres.url }, async (scene) => {
    await using bare = await BareProgram.start("bare-watch", postgres.url);
    await using writer = await EventWriter.connect(postgres);
    const tokens = await tokensFor(scene.client, watcherCount);
    const figures: Figure[] = [];
    for (const contest of contestsOf(scene, bare)) {
      figures.push(...(await compete(contest, { scene, bare, writer, tokens, rounds })));
    }
    return figures;
  });
};

interface Contest {
  readonly name: string;
  readonly protocol: WatchProtocol;
  readonly ours: string;
  readonly bare: string;
}

interface Ground {
  readonly scene: Scene;
  readonly bare: BareProgram;
  readonly writer: EventWriter;
  readonly tokens: readonly string[];
  readonly rounds: number;
}

function contestsOf({ steward: { addresses } }: Scene, { ports }: BareProgram): Contest[] {
  const [bareGrpc, bareHttp2] = ports.map((port) => `http://127.0.0.1:${port}`);
  if (bareGrpc === undefined || bareHttp2 === undefined) throw new Error("the bare server does not listen");
  return [
    { name: "gRPC on grpc-js", protocol: "grpc", ours: addresses.grpc, bare: bareGrpc },
    { name: "gRPC on the Connect port", protocol: "grpc", ours: addresses.connect, bare: bareHttp2 },
    { name: "Connect", protocol: "connect", ours: addresses.connect, bare: bareHttp2 },
  ];
}

async function compete({ name, protocol, ours, bare }: Contest, ground: Ground): Promise<Figure[]> {
  const { scene, writer, tokens, rounds } = ground;
  const theirs: number[] = [];
  {
    await using watchers = await Watchers.open({ origin: bare, count: watcherCount, tokens: [], protocol });
    await deliver(watchers, writer, ground.bare.pid);
    for (let round = 0; round < rounds; round++) theirs.push(await deliver(watchers, writer, ground.bare.pid));
  }
  await using watchers = await Watchers.open({ origin: ours, count: watcherCount, tokens, protocol });
  const mine: number[] = [];
  await deliver(watchers, writer, scene.steward.pid);
  for (let round = 0; round < rounds; round++) mine.push(await deliver(watchers, writer, scene.steward.pid));
  const latencies = await callsMeanwhile(scene, deliver(watchers, writer, scene.steward.pid));
  const results = mine.map((each, round) => ({ ours: each, bare: theirs[round] ?? Number.NaN }));
  return [
    figureOf({ name: `delivery, ${name}`, unit: "µs of CPU", aim: { atMost: 2 } }, results),
    figureAlone({ name: "  for itself", unit: "µs of CPU", aim: { atMost: 12 } }, median(mine)),
    figureAlone({ name: "  Get meanwhile, p99", unit: "ms", aim: { atMost: 50 } }, percentile(latencies, 0.99)),
  ];
}

/** Has all watchers be told of one round of events; returns the CPU that a delivery took of the server, in µs. */
async function deliver(watchers: Watchers, writer: EventWriter, pid: number): Promise<number> {
  const events = (roundMs / 1_000) * eventsASecond;
  const cpuMs = await cpuMsOf(pid);
  const startedMs = performance.now();
  let last = 0n;
  for (let event = 1; event <= events; event++) {
    last = (await writer.append()).revision;
    await delay(Math.max(0, startedMs + (event * 1_000) / eventsASecond - performance.now()));
  }
  await watchers.reached(last);
  return (((await cpuMsOf(pid)) - cpuMs) * 1_000) / (events * watcherCount);
}

/** Calls Get, one call after the other, until the work is done; returns how long each took, in ms. */
async function callsMeanwhile(scene: Scene, work: Promise<unknown>): Promise<number[]> {
  const caller = getCaller(scene, "watcher-0");
  let isDone = false;
  const done = work.finally(() => (isDone = true));
  const times: number[] = [];
  while (!isDone) {
    const startedMs = performance.now();
    await caller.call(0);
    times.push(performance.now() - startedMs);
    await delay(callEveryMs);
  }
  await done;
  caller.close();
  return times;
}
