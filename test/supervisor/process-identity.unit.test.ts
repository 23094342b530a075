import { expect, test } from "vitest";
import { parseStat } from "../../src/supervisor/process-identity.ts";

test("a name with parentheses and spaces does not shift the fields of a stat line", () => {
  const rest = "S 10 20 30 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 123456 999 111";

  expect(parseStat(`42 (a) S (b c) ${rest}\n`)).toEqual({
    pid: 42,
    state: "S",
    parent: 10,
    group: 20,
    session: 30,
    startTime: "123456",
  });
});
