import { expect, test } from "vitest";
import type { Clock } from "../../src/domain/clock.ts";
import { RestartBudget } from "../../src/supervisor/restart-budget.ts";

/** A clock that stands still until it is moved. */
class Moved implements Clock {
  #nowMs = 0;
  #timers: { readonly atMs: number; readonly run: () => void }[] = [];

  now(): Date {
    return new Date(this.#nowMs);
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, run: () => void): () => void {
    const timer = { atMs: this.#nowMs + delayMs, run };
    this.#timers.push(timer);
    return () => (this.#timers = this.#timers.filter((each) => each !== timer));
  }

  /** Lets the time pass; whoever waits for it goes on meanwhile. */
  async pass(ms: number): Promise<void> {
    const endMs = this.#nowMs + ms;
    for (;;) {
      const next = this.#timers.toSorted((one, other) => one.atMs - other.atMs)[0];
      if (next === undefined || next.atMs > endMs) break;
      this.#timers = this.#timers.filter((each) => each !== next);
      this.#nowMs = next.atMs;
      next.run();
      await Promise.resolve();
    }
    this.#nowMs = endMs;
  }
}

function arrange(o: { perSecond: number; burst: number }) {
  const clock = new Moved();
  const budget = new RestartBudget(clock, o);
  const served: string[] = [];
  const ask = (name: string, failures: () => number = () => 0) => {
    void budget.take(failures).then(() => served.push(name));
  };
  return { clock, budget, served, ask };
}

test("a burst is served at once, and then so many a second", async () => {
  const { clock, budget, served, ask } = arrange({ perSecond: 10, burst: 5 });

  for (let count = 0; count < 20; count++) ask(`web-${count}`);
  await clock.pass(0);
  expect(served).toHaveLength(5);
  expect(budget.queued).toBe(15);

  await clock.pass(1_000);
  expect(served).toHaveLength(15);
});

test("a start that may happen at once takes no place from those which wait", async () => {
  const { clock, budget, served, ask } = arrange({ perSecond: 1, burst: 2 });

  expect(budget.takeAtOnce()).toBe(true);
  ask("second");
  ask("waiting");
  expect(budget.takeAtOnce()).toBe(false);
  await clock.pass(1_000);

  expect(served).toEqual(["second", "waiting"]);
  expect(budget.takeAtOnce()).toBe(false);
});

test("whoever has failed least goes first, and among equals whoever came first", async () => {
  const { clock, served, ask } = arrange({ perSecond: 1, burst: 1 });

  ask("first");
  ask("bad", () => 7);
  ask("worse", () => 8);
  ask("well");
  ask("also-well");
  await clock.pass(4_000);

  expect(served).toEqual(["first", "well", "also-well", "bad", "worse"]);
});

test("who is forgiven while it waits goes first from then on", async () => {
  const { clock, served, ask } = arrange({ perSecond: 1, burst: 1 });
  let failures = 9;
  ask("first");
  ask("bad", () => 3);
  ask("forgiven", () => failures);

  failures = 0;
  await clock.pass(2_000);

  expect(served).toEqual(["first", "forgiven", "bad"]);
});
