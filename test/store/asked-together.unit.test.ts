import { setImmediate as nextTurn } from "node:timers/promises";
import { expect, test } from "vitest";
import { AskedTogether } from "../../src/store/asked-together.ts";

test("who asks in one turn is answered by one read, of each thing once", async () => {
  const reads: string[][] = [];
  const reader = readerInto(reads);

  const answers = await Promise.all(["a", "b", "a"].map((key) => reader.ask(key)));

  expect(answers).toEqual(["a!", "b!", "a!"]);
  expect(reads).toEqual([["a", "b"]]);
});

test("who asks after a read has begun gets another read, though the first goes on", async () => {
  const reads: string[][] = [];
  const gate = Promise.withResolvers<void>();
  const reader = readerInto(reads, gate.promise);
  const early = reader.ask("a");
  await nextTurn();
  await nextTurn();

  const late = reader.ask("a");
  await nextTurn();
  await nextTurn();

  expect(reads).toEqual([["a"], ["a"]]);
  gate.resolve();
  expect(await Promise.all([early, late])).toEqual(["a!", "a!"]);
});

test("all who asked hear of a failure, and the next read is tried", async () => {
  let failing = true;
  const reader = new AskedTogether(async () => {
    if (failing) throw new Error("no database");
    return (key: string) => key;
  });
  const outcomes = await Promise.allSettled([reader.ask("a"), reader.ask("b")]);
  failing = false;

  expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  expect(await reader.ask("a")).toBe("a");
});

function readerInto(reads: string[][], until?: Promise<void>): AskedTogether<string, string> {
  return new AskedTogether(async (keys) => {
    reads.push([...keys]);
    await until;
    return (key) => `${key}!`;
  });
}
