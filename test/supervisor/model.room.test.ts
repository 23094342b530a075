import { setTimeout as delay } from "node:timers/promises";
import fc from "fast-check";
import { afterEach, expect, test } from "vitest";
import { type FailPoint, failPoints } from "../../src/supervisor/fail-point.ts";
import { Trial } from "./trial.ts";

/**
 * Random schedules of everything that can happen to services and to their supervisor, on real processes, held against what witnesses outside of it
 * saw. A failing seed is printed by the test that failed; STEWARD_SEED=N runs it alone, STEWARD_SEEDS=N runs that many new ones.
 */
const soakSeeds = Number(process.env["STEWARD_SEEDS"] ?? 0);
const firstSeed =
  process.env["STEWARD_SEED"] === undefined ? Date.now() % 1_000_000_000 : Number(process.env["STEWARD_SEED"]);
const seeds =
  soakSeeds > 0 || process.env["STEWARD_SEED"] !== undefined
    ? Array.from({ length: Math.max(1, soakSeeds) }, (_, index) => firstSeed + index)
    : [1, 2, 3, 4, 5, 6];

const names = ["one", "two", "three"] as const;

type Happening =
  | { readonly kind: "register" | "start" | "stop" | "restart" | "update" | "crash" | "remove"; readonly name: string }
  | { readonly kind: "kill supervisor" | "start supervisor" }
  | { readonly kind: "start supervisor to fail"; readonly failPoint: FailPoint; readonly failAtTime: number }
  | { readonly kind: "jump"; readonly ms: number }
  | { readonly kind: "pause"; readonly ms: number };

const name = fc.constantFrom(...names);
const happening: fc.Arbitrary<Happening> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constantFrom("register", "start", "stop", "restart", "update", "crash", "crash", "remove"),
      name,
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom("kill supervisor", "start supervisor") }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("start supervisor to fail"),
      failPoint: fc.constantFrom(...failPoints),
      failAtTime: fc.integer({ min: 1, max: 3 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("jump"), ms: fc.integer({ min: -3_600_000, max: 3_600_000 }) }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("pause"), ms: fc.integer({ min: 0, max: 120 }) }) },
);
const schedule = fc.array(happening, { minLength: 25, maxLength: 40 });

let trial: Trial | undefined;

afterEach(async () => {
  await trial?.close();
  trial = undefined;
});

test.each(seeds)(
  "whatever happens, nothing is double, lost or invented, and in the end all is as wished (seed %i)",
  async (seed) => {
    const [happenings = []] = fc.sample(schedule, { seed, numRuns: 1 });
    trial = await Trial.open();
    const world = new World(trial);

    for (const each of happenings) await world.meet(each);
    // One that was to die somewhere may not have come there yet.
    await trial.killSupervisor();
    await trial.startSupervisor();
    await trial.settled([...world.registered]);
    await trial.gone(names.filter((each) => !world.registered.has(each)));
    const faults = await Promise.all(names.map((each) => world.trial.faults(each)));

    expect({ seed, happenings, faults: faults.flat() }).toEqual({ seed, happenings, faults: [] });
  },
);

/** What the schedule did, as far as it must know to go on. */
class World {
  readonly registered = new Set<string>();
  readonly trial: Trial;
  #updates = 0;

  constructor(trial: Trial) {
    this.trial = trial;
  }

  async meet(happening: Happening): Promise<void> {
    switch (happening.kind) {
      case "kill supervisor":
        return this.trial.killSupervisor();
      case "start supervisor":
        return this.trial.startSupervisor();
      case "start supervisor to fail":
        return this.trial.startSupervisor(happening);
      case "jump":
        return Promise.resolve(this.trial.jump(happening.ms));
      case "pause":
        return delay(happening.ms);
      case "register":
        return this.#register(happening.name);
      case "crash":
        return Promise.resolve(this.trial.crash(happening.name));
      case "start":
      case "stop":
      case "restart":
      case "update":
      case "remove":
        return this.registered.has(happening.name) ? this.#change(happening.kind, happening.name) : undefined;
    }
  }

  async #register(service: string): Promise<void> {
    if (this.registered.has(service)) return;
    // One that was removed may still be on its way out.
    const isNew = await this.trial.register(service).then(
      () => true,
      () => false,
    );
    if (isNew) this.registered.add(service);
  }

  async #change(kind: "start" | "stop" | "restart" | "update" | "remove", service: string): Promise<void> {
    const { desk } = this.trial;
    switch (kind) {
      case "update":
        return desk.update(service, this.trial.command(service), { environment: { UPDATE: String(++this.#updates) } });
      case "remove":
        this.registered.delete(service);
        return desk.remove(service);
      case "start":
      case "stop":
      case "restart":
        return desk.wish(kind, service);
    }
  }
}
