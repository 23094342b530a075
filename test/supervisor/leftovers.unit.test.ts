import { expect, test } from "vitest";
import { markerOfPart } from "../../src/supervisor/environment.ts";
import { membersOf } from "../../src/supervisor/leftovers.ts";
import { Processes, type TableEntry } from "../../src/supervisor/process-table.ts";

const shim = { instanceId: "one", runDir: "/nowhere", identity: { bootId: "boot", pid: 100, startTime: "7" } };
const entry = (pid: number, more: Partial<TableEntry> = {}): TableEntry => ({
  pid,
  state: "S",
  parent: 1,
  group: 100,
  session: 100,
  startTime: "8",
  instanceId: undefined,
  ...more,
});
const leader = entry(100, { startTime: "7" });
const pidsOf = (table: readonly TableEntry[]) => {
  const { own, doubtful } = membersOf(shim, new Processes(table));
  return { own: own.map(({ pid }) => pid), doubtful: doubtful.map(({ pid }) => pid) };
};

test("while its leader is there, a session is ours with all its members", () => {
  const stranger = entry(5, { session: 5, group: 5 });

  expect(pidsOf([leader, entry(101), entry(102, { session: 102 }), stranger])).toEqual({
    own: [101, 102],
    doubtful: [],
  });
});

test("who left the session is known by its marker, and only by its own", () => {
  const away = { session: 5, group: 5 };

  const table = [entry(6, { ...away, instanceId: "one" }), entry(7, { ...away, instanceId: "two" })];
  expect(pidsOf(table)).toEqual({ own: [6], doubtful: [] });
});

test("without its leader a session is proven by one marked member", () => {
  expect(pidsOf([entry(101), entry(102, { instanceId: "one" })])).toEqual({ own: [102, 101], doubtful: [] });
});

test("without leader and marker nobody is signalled, but the doubt is told", () => {
  expect(pidsOf([entry(101)])).toEqual({ own: [], doubtful: [101] });
});

test("when another process leads a session of that number, its members are not ours", () => {
  const successor = entry(100, { startTime: "900" });

  expect(pidsOf([successor, entry(101, { startTime: "901" })])).toEqual({ own: [], doubtful: [] });
});

test("what bears the marker of a part of an instance belongs to it, wherever it is", () => {
  const away = { session: 5, group: 5 };
  const part = entry(101, { ...away, instanceId: markerOfPart("one", "probe") });
  const other = entry(102, { ...away, instanceId: "one-more" });

  expect(pidsOf([leader, part, other])).toEqual({ own: [101], doubtful: [] });
});
