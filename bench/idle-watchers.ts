import { setTimeout as delay } from "node:timers/promises";
import { Heap } from "../test/support/heap.ts";
import { type Figure, figureAlone, figureOf, type Measure, type Round } from "./figure.ts";
import { getCaller } from "./get-caller.ts";
import { type Rates, ratesWithin } from "./load.ts";
import { type Scene, withSteward } from "./scene.ts";
import { tokensFor, Watchers, type WatchProtocol } from "./watchers.ts";

/** The environment of a server that can be looked into; it serves more slowly for that. */
const inspectable = { NODE_OPTIONS: "--inspect=127.0.0.1:0" };

const watcherCount = 5_000;
const sliceMs = 1_000;
/** Until a change of the number of watchers is history: what opened them was collected, and what serves is compiled. */
const settleMs = 3_000;

/** What watchers to whom nothing happens cost: of the heap, and of the calls of others, with five thousand of them against none. */
export const measureIdleWatchers: Measure = async ({ rounds }) => [
  ...(await withSteward({}, heapOfWatchers, inspectable)),
  ...(await withSteward({}, (scene) => callsAmongWatchers(scene, rounds))),
];

async function heapOfWatchers(scene: Scene): Promise<Figure[]> {
  using heap = await Heap.of(scene.steward.log);
  const tokens = await tokensFor(scene.client, watcherCount);
  const figures: Figure[] = [];
  for (const { name, origin, protocol } of transportsOf(scene)) {
    await delay(settleMs);
    const before = await heap.usedBytes();
    await using _watchers = await Watchers.open({ origin, count: watcherCount, tokens, protocol });
    const grown = (await heap.usedBytes()) - before;
    const figure = { name: `an idle watcher, ${name}`, unit: "KB of heap", aim: { atMost: 12 } };
    figures.push(figureAlone(figure, grown / watcherCount / 1024));
  }
  return figures;
}

/** The calls among none are made before and afterwards. */
async function callsAmongWatchers(scene: Scene, rounds: number): Promise<Figure[]> {
  const tokens = await tokensFor(scene.client, watcherCount);
  const caller = getCaller(scene, "watcher-0");
  const { pid } = scene.steward;
  const slices = async (): Promise<Rates[]> => {
    await ratesWithin(caller, pid, settleMs);
    const rates: Rates[] = [];
    for (let round = 0; round < rounds; round++) rates.push(await ratesWithin(caller, pid, sliceMs));
    return rates;
  };
  const figures: Figure[] = [];
  let before = await slices();
  for (const { name, origin, protocol } of transportsOf(scene)) {
    const watchers = await Watchers.open({ origin, count: watcherCount, tokens, protocol });
    const among = await slices();
    await watchers[Symbol.asyncDispose]();
    const after = await slices();
    const results = (of: (rates: Rates) => number): Round[] =>
      among.map((each, round) => ({
        ours: of(each),
        bare: mean([before, after].map((side) => of(side[round] ?? each))),
      }));
    const aim = { atLeast: 0.9 };
    figures.push(
      figureOf(
        { name: `Get among ${watcherCount} watchers, ${name}, or none`, unit: "calls/s", aim },
        results((each) => each.perSecond),
      ),
      figureOf(
        { name: "  by the server's CPU", unit: "calls/CPU s", aim },
        results((each) => each.perCpuSecond),
      ),
    );
    before = after;
  }
  caller.close();
  return figures;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, each) => sum + each, 0) / values.length;
}

function transportsOf({ steward: { addresses } }: Scene): { name: string; origin: string; protocol: WatchProtocol }[] {
  return [
    { name: "gRPC on grpc-js", origin: addresses.grpc, protocol: "grpc" },
    { name: "gRPC on the Connect port", origin: addresses.connect, protocol: "grpc" },
    { name: "Connect", origin: addresses.connect, protocol: "connect" },
  ];
}
