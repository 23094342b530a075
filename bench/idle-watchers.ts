import { Heap } from "../test/support/heap.ts";
import { type Figure, figureAlone, figureOf, type Measure, type Round } from "./figure.ts";
import { getCaller } from "./get-caller.ts";
import { type Rates, ratesWithin } from "./load.ts";
import { type Scene, withSteward } from "./scene.ts";
import { tokensFor, Watchers, type WatchProtocol } from "./watchers.ts";

/** The environment of a server that can be looked into. */
const inspectable = { NODE_OPTIONS: "--inspect=127.0.0.1:0" };

const watcherCount = 5_000;
const sliceMs = 1_000;

/** What watchers to whom nothing happens cost: of the heap, and of the calls of others, with five thousand of them against none. */
export const measureIdleWatchers: Measure = ({ rounds }) =>
  withSteward(
    {},
    async (scene) => {
      using heap = await Heap.of(scene.steward.log);
      const tokens = await tokensFor(scene.client, watcherCount);
      const caller = getCaller(scene, "watcher-0");
      await ratesWithin(caller, scene.steward.pid, sliceMs);
      const figures: Figure[] = [];
      for (const { name, origin, protocol } of transportsOf(scene)) {
        const alone: Rates[] = [];
        for (let round = 0; round < rounds; round++) alone.push(await ratesWithin(caller, scene.steward.pid, sliceMs));
        const before = await heap.usedBytes();
        await using _watchers = await Watchers.open({ origin, count: watcherCount, tokens, protocol });
        const grown = (await heap.usedBytes()) - before;
        const among: Rates[] = [];
        for (let round = 0; round < rounds; round++) among.push(await ratesWithin(caller, scene.steward.pid, sliceMs));
        const results = (of: (rates: Rates) => number): Round[] =>
          among.map((each, round) => ({ ours: of(each), bare: of(alone[round] ?? each) }));
        const aim = { atLeast: 0.9 };
        figures.push(
          figureAlone(
            { name: `an idle watcher, ${name}`, unit: "KB of heap", aim: { atMost: 12 } },
            grown / watcherCount / 1024,
          ),
          figureOf(
            { name: `  Get among ${watcherCount}, among none`, unit: "calls/s", aim },
            results((each) => each.perSecond),
          ),
          figureOf(
            { name: "  by the server's CPU", unit: "calls/CPU s", aim },
            results((each) => each.perCpuSecond),
          ),
        );
      }
      caller.close();
      return figures;
    },
    inspectable,
  );

function transportsOf({ steward: { addresses } }: Scene): { name: string; origin: string; protocol: WatchProtocol }[] {
  return [
    { name: "gRPC on grpc-js", origin: addresses.grpc, protocol: "grpc" },
    { name: "gRPC on the Connect port", origin: addresses.connect, protocol: "grpc" },
    { name: "Connect", origin: addresses.connect, protocol: "connect" },
  ];
}
