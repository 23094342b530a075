import { expect, test } from "vitest";
import { LineBudget } from "../../src/domain/line-budget.ts";

test("a burst is written, the rest is left out and counted, and with time there is room again", () => {
  let nowMs = 0;
  const budget = new LineBudget({ clock: { monotonicMs: () => nowMs }, burst: 3, perSecond: 2 });
  const take = (times: number) => Array.from({ length: times }, () => budget.take()?.omitted);

  expect(take(5)).toEqual([0, 0, 0, undefined, undefined]);
  nowMs += 400;
  expect(take(1)).toEqual([undefined]);
  nowMs += 100;
  expect(take(2)).toEqual([3, undefined]);
  nowMs += 3_600_000;
  expect(take(4)).toEqual([1, 0, 0, undefined]);
});
