import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { EventType } from "../gen/steward/v1/event_pb.ts";
import type { StewardClient } from "../src/client.ts";
import { Births, ByHand } from "./by-hand.ts";
import { type Figure, figureAlone, figureOf, type Measure } from "./figure.ts";
import { connect, cpuMsOf, type Scene, withSteward } from "./scene.ts";

const services = 1_000;
/** Calls at a time: each is one transaction, and the processes end and start side by side behind them. */
const askedAtOnce = 32;
const idleMs = 20_000;
/** Until what was busy a moment ago has come to rest. */
const settleMs = 5_000;
/** As fast as they can be started, not as fast as an operator may want it. */
const unbounded = { "start-rate": "10000", "start-burst": String(services) };

/**
 * A thousand managed services on one server: all started, restarted, stopped and adopted after kill -9, and what they cost while nothing happens. The
 * baseline is the same thousand shims and commands, all at once, by hand.
 */
export const measureScale: Measure = async () => {
  const directory = await mkdtemp(join(tmpdir(), "steward-bench-"));
  const births = await Births.open(join(directory, "births"));
  try {
    const bare = await byHand(directory, births);
    return await withSteward(unbounded, (scene) => measure(scene, births, bare));
  } finally {
    births.close();
    await rm(directory, { recursive: true, force: true });
  }
};

interface Times {
  readonly startMs: number;
  readonly restartMs: number;
  readonly stopMs: number;
}

async function byHand(directory: string, births: Births): Promise<Times> {
  const all = names("h").map((name) => new ByHand(directory, births, { name }));
  try {
    const startMs = await timed(() => Promise.all(all.map((each) => each.start())));
    const restart = async (each: ByHand) => {
      await each.end("SIGTERM");
      await each.start();
    };
    const restartMs = await timed(() => Promise.all(all.map(restart)));
    const stopMs = await timed(() => Promise.all(all.map((each) => each.end("SIGTERM"))));
    return { startMs, restartMs, stopMs };
  } finally {
    await Promise.all(all.map((each) => each[Symbol.asyncDispose]()));
  }
}

async function measure({ steward }: Scene, births: Births, bare: Times): Promise<Figure[]> {
  await steward.crash();
  const emptyMs = await timed(() => steward.startAgain());
  using first = connect(steward);
  const startMs = await timed(() => startAll(first, births));
  const restartMs = await timed(() => restartAll(first));

  await delay(settleMs);
  const idleCpu = (await cpuWhile(steward.pid, idleMs)) / idleMs;
  const rssMb = await rssMbOf(steward.pid);

  await steward.crash();
  const crashedAt = Date.now();
  await steward.startAgain();
  using second = connect(steward);
  const adoptMs = (await last(second, EventType.INSTANCE_ADOPTED)) - crashedAt;
  const stopMs = await timed(() => stopAll(second));

  const figure = (name: string, ours: number, bareMs: number, atMost: number) =>
    figureOf({ name: `${name} of ${services}`, unit: "ms", aim: { atMost } }, [{ ours, bare: bareMs }]);
  return [
    figure("start", startMs, bare.startMs, 3),
    figure("restart", restartMs, bare.restartMs, 3),
    figure("stop", stopMs, bare.stopMs, 3),
    figure("adoption after kill -9, against a start with none,", adoptMs, emptyMs, 3),
    figureAlone({ name: `adoption of ${services} after kill -9`, unit: "ms", aim: { atMost: 3_000 } }, adoptMs),
    figureAlone({ name: `idle with ${services}`, unit: "% of a core", aim: { atMost: 2 } }, idleCpu * 100),
    figureAlone({ name: `resident with ${services}`, unit: "MB", aim: { atMost: 250 } }, rssMb),
  ];
}

async function startAll(client: StewardClient, births: Births): Promise<void> {
  const specs = names("s").map((name) => {
    const value = { command: births.command(name), minReady: { seconds: 0n } };
    return { name, spec: { kind: { case: "managed" as const, value } } };
  });
  await client.registry.apply({ services: specs });
  await last(client, EventType.INSTANCE_READY);
}

async function restartAll(client: StewardClient): Promise<void> {
  const queue = names("s").values();
  const ask = async () => {
    for (const name of queue) await client.supervisor.restart({ name });
  };
  await Promise.all(Array.from({ length: askedAtOnce }, ask));
  await last(client, EventType.INSTANCE_READY, 2 * services);
}

async function stopAll(client: StewardClient): Promise<void> {
  await client.supervisor.stopAll({});
  await last(client, EventType.SERVICE_STOPPED);
}

/** When the event came that completes so many of its type, in milliseconds since 1970. */
async function last(client: StewardClient, type: EventType, count = services): Promise<number> {
  let seen = 0;
  for await (const update of client.watchEvents({ after: { revision: 0n }, types: [type] })) {
    if (update.kind !== "events") continue;
    seen += update.events.length;
    const time = update.events.at(-1)?.time;
    if (seen >= count && time !== undefined) return timestampMs(time);
  }
  throw new Error("the watch has ended");
}

function names(prefix: string): string[] {
  return Array.from({ length: services }, (_, index) => `${prefix}${index}`);
}

async function timed(run: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await run();
  return performance.now() - start;
}

async function cpuWhile(pid: number, ms: number): Promise<number> {
  const before = await cpuMsOf(pid);
  await delay(ms);
  return (await cpuMsOf(pid)) - before;
}

async function rssMbOf(pid: number): Promise<number> {
  const [, kb] = /^VmRSS:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, "utf8")) ?? [];
  return Number(kb) / 1024;
}
