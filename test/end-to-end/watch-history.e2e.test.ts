import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { PrivatePostgres } from "../support/postgres.ts";
import { planOf } from "./history/plan.ts";
import { World } from "./history/world.ts";

/**
 * Random histories from several writers while everything fails that can, held against what each watcher was told. A failing seed is printed by the
 * test that failed; STEWARD_SEED=N runs it alone, STEWARD_SEEDS=N runs that many new ones. The same seed is the same plan, not the same moment.
 */
const soakSeeds = Number(process.env["STEWARD_SEEDS"] ?? 0);
const firstSeed =
  process.env["STEWARD_SEED"] === undefined ? Date.now() % 1_000_000_000 : Number(process.env["STEWARD_SEED"]);
const seeds =
  soakSeeds > 0 || process.env["STEWARD_SEED"] !== undefined
    ? Array.from({ length: Math.max(1, soakSeeds) }, (_, index) => firstSeed + index)
    : [1, 2, 3, 4];

let postgres: PrivatePostgres;
let world: World | undefined;

beforeAll(async () => {
  postgres = await PrivatePostgres.start();
});
afterEach(async () => {
  await world?.[Symbol.asyncDispose]();
  world = undefined;
});
afterAll(() => postgres?.dispose());

/** A server is started several times in each, which takes long on a machine that has more to do. */
const timeoutMs = 300_000;

test.each(seeds)(
  "whatever happens, each watcher is told what it was promised (seed %i)",
  async (seed) => {
    const plan = planOf(seed);
    world = await World.open(plan, postgres);

    await world.run();
    // Where one thing is wrong many are.
    const broken = (await world.judge()).slice(0, 20);

    expect({ seed, faults: plan.faults, broken }).toEqual({ seed, faults: plan.faults, broken: [] });
  },
  timeoutMs,
);
