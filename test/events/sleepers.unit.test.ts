import { expect, test } from "vitest";
import { Sleepers } from "../../src/events/sleepers.ts";

const { signal } = new AbortController();

test("whatever else waits for its turn comes long before the last of a thousand sleepers is woken", async () => {
  const sleepers = new Sleepers();
  let awake = 0;
  const all = Array.from({ length: 1_000 }, () => sleepers.join(signal));
  const woken = all.map((sleeper) => sleeper.sleep().then(() => (awake += 1)));

  sleepers.wake();
  const awakeAtTurn = await new Promise<number>((resolve) => setImmediate(() => resolve(awake)));
  await Promise.all(woken);

  expect(awakeAtTurn).toBeGreaterThan(0);
  expect(awakeAtTurn).toBeLessThan(500);
});

test("a sleeper is woken by its time, also after it was woken before", async () => {
  const sleepers = new Sleepers();
  const sleeper = sleepers.join(signal);
  const early = sleeper.sleep(performance.now() + 20);
  sleepers.wake();
  await early;
  const untilMs = performance.now() + 40;

  await sleeper.sleep(untilMs);

  expect(performance.now()).toBeGreaterThanOrEqual(untilMs);
  sleeper.leave();
});

test("a sleeper is woken by its signal, and does not sleep after it", async () => {
  const ending = new AbortController();
  const sleeper = new Sleepers().join(ending.signal);
  const asleep = sleeper.sleep();

  ending.abort();

  await asleep;
  await sleeper.sleep();
  sleeper.leave();
});
