/**
 * `npm run bench [NAME…] [-- --rounds N --json FILE]`: measures the promises as ratios against bare baselines. Never a test: figures of a busy
 * machine are worth looking at, not failing for.
 */
import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { measureDelivery } from "./delivery.ts";
import { measureFanout } from "./fanout.ts";
import { type Figure, type Measure, tableOf } from "./figure.ts";
import { measureIdleWatchers } from "./idle-watchers.ts";
import { measureListing } from "./listing.ts";
import { measureMemory } from "./memory.ts";
import { measureRestart } from "./restart.ts";
import { measureScale } from "./scale.ts";
import { measureUnary } from "./unary.ts";
import { measureWrites } from "./writes.ts";

const benches: Readonly<Record<string, Measure>> = {
  unary: measureUnary,
  restart: measureRestart,
  delivery: measureDelivery,
  fanout: measureFanout,
  idle: measureIdleWatchers,
  memory: measureMemory,
  listing: measureListing,
  scale: measureScale,
  writes: measureWrites,
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: "string", default: "5" }, json: { type: "string" } },
});
const rounds = Number(values.rounds);
const unknown = positionals.filter((name) => !(name in benches));
if (unknown.length > 0 || !Number.isInteger(rounds) || rounds < 1) {
  console.error(`usage: npm run bench -- [${Object.keys(benches).join("|")}]... [--rounds N] [--json FILE]`);
  process.exit(2);
}

const figures: Figure[] = [];
for (const [name, measure] of Object.entries(benches)) {
  if (positionals.length > 0 && !positionals.includes(name)) continue;
  const startedMs = performance.now();
  figures.push(...(await measure({ rounds })));
  console.error(`${name}: ${((performance.now() - startedMs) / 1000).toFixed(0)} s`);
}
console.log(tableOf(figures));
if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(figures, undefined, 2)}\n`);
