import { expect, test } from "vitest";
import { AwaitedSleeper, Sleepers } from "../../src/events/sleepers.ts";

const { signal } = new AbortController();

test("whatever else waits for its turn comes long before the last of a thousand sleepers is woken", async () => {
  const sleepers = new Sleepers();
  let awake = 0;
  const all = Array.from({ length: 1_000 }, () => new AwaitedSleeper(sleepers, signal));
  const woken = all.map((sleeper) => sleeper.rest().then(() => (awake += 1)));

  sleepers.wake();
  const awakeAtTurn = await new Promise<number>((resolve) => setImmediate(() => setImmediate(() => resolve(awake))));
  await Promise.all(woken);

  expect(awakeAtTurn).toBeGreaterThan(0);
  expect(awakeAtTurn).toBeLessThan(500);
});

test("all who sleep are woken once, in the order in which they fell asleep, and none who left before its turn", async () => {
  const sleepers = new Sleepers();
  const all = Array.from({ length: 700 }, () => new AwaitedSleeper(sleepers, signal));
  const [goesAtOnce, goesLater, staysAwake] = [all[3], all[650], all[5]];
  const woken: number[] = [];
  all.forEach((sleeper, index) => {
    if (sleeper !== staysAwake) void sleeper.rest().then(() => woken.push(index));
  });

  goesAtOnce?.leave();
  sleepers.wake();
  goesLater?.leave();
  sleepers.wake();
  const last = new AwaitedSleeper(sleepers, signal);
  const lastWoken = last.rest();
  sleepers.wake();
  await lastWoken;

  expect(woken).toEqual(Array.from(all, (_, index) => index).filter((index) => ![3, 5, 650].includes(index)));
});

test("one that falls asleep again as it is woken sleeps until the next time", async () => {
  const sleepers = new Sleepers();
  const [restless, other] = [new AwaitedSleeper(sleepers, signal), new AwaitedSleeper(sleepers, signal)];
  let awake = 0;
  const rest = (): Promise<void> =>
    restless.rest().then(() => {
      awake += 1;
      void rest();
    });
  void rest();

  for (let turn = 1; turn <= 3; turn++) {
    const rested = other.rest();
    sleepers.wake();
    await rested;
    expect(awake).toBe(turn);
  }
});

test("a sleeper is woken by its time, also after it was woken before", async () => {
  const sleepers = new Sleepers();
  const sleeper = new AwaitedSleeper(sleepers, signal);
  const early = sleeper.rest(performance.now() + 20);
  sleepers.wake();
  await early;
  const untilMs = performance.now() + 40;

  await sleeper.rest(untilMs);

  expect(performance.now()).toBeGreaterThanOrEqual(untilMs);
  sleeper.leave();
});

test("a sleeper is woken by its signal, leaves, and does not sleep after it", async () => {
  const ending = new AbortController();
  const sleepers = new Sleepers();
  const sleeper = new AwaitedSleeper(sleepers, ending.signal);
  const asleep = sleeper.rest();

  ending.abort();

  await asleep;
  expect(sleeper.isAlone).toBe(true);
  await sleeper.rest();
  sleeper.leave();
});
