import fc from "fast-check";
import { beforeEach, describe, expect, test } from "vitest";
import type { Event } from "../../src/domain/event.ts";
import { checkTail, EventLog, type EventQuery } from "../../src/rpc/event-log.ts";
import { aService } from "./arbitrary.ts";
import { type Change, MemoryLog, storeUid } from "./memory-log.ts";

let store: MemoryLog;
let log: EventLog;

beforeEach(() => {
  store = new MemoryLog();
  log = new EventLog(store, storeUid);
});

test("whatever the pages' size and the filter, the pages together are all events that match, each once and in order", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(fc.boolean(), { minLength: 1, maxLength: 5 })),
      fc.integer({ min: 1, max: 4 }),
      async (history, pageSize) => {
        const its = new MemoryLog();
        for (const transaction of history)
          its.append(
            ...transaction.map(
              (isWeb): Change => [{ type: "service_created" }, aService({ name: isWeb ? "web" : "db" })],
            ),
          );
        const listed: Event[] = [];

        let pageToken = "";
        do {
          const page = await new EventLog(its, storeUid).page(query({ pageSize, pageToken, matches: isOfWeb }));
          listed.push(...page.events);
          pageToken = page.nextPageToken;
        } while (pageToken !== "");

        expect(listed).toEqual(its.events.filter(isOfWeb));
      },
    ),
  );
});

test("a page ends with a whole transaction", async () => {
  store.append(...changes("a", "b", "c"));
  store.append(...changes("d"));

  const page = await log.page(query({ pageSize: 2 }));

  expect(names(page.events)).toEqual(["a", "b", "c"]);
});

test("a page out of which events went while it was read is refused", async () => {
  for (const name of ["a", "b", "c"]) store.append(...changes(name));
  const thinned = new EventLog(
    {
      readAfter: async (revision, limit) => {
        store.oldest = 2n;
        return (await store.readAfter(revision, limit)).filter((event) => event.revision !== 2n);
      },
      readBefore: (revision, limit) => store.readBefore(revision, limit),
      bounds: () => store.bounds(),
    },
    storeUid,
  );

  const page = thinned.page(query({ pageSize: 10 }));

  await expect(page).rejects.toMatchObject({ reason: "REVISION_COMPACTED", metadata: { oldest: "2" } });
});

test("a list tells where a watch goes on without missing anything", async () => {
  for (const name of ["a", "b", "c"]) store.append(...changes(name));

  const first = await log.page(query({ pageSize: 2 }));
  const last = await log.page(query({ pageSize: 2, pageToken: first.nextPageToken }));

  expect([first.cursor, last.cursor]).toEqual(Array(2).fill({ storeUid, revision: 3n }));
  expect(last.nextPageToken).toBe("");
});

test("a list begins after a place, or at a time", async () => {
  for (let index = 0; index < 300; index++) store.append(...changes(`s${index}`));
  const time = store.events[250]?.time;

  const after = await log.page(query({ after: { storeUid: "", revision: 298n } }));
  const since = await log.page(query({ since: time, matches: (event) => time !== undefined && event.time >= time }));

  expect(names(after.events)).toEqual(["s298", "s299"]);
  expect(names(since.events)).toEqual(Array.from({ length: 50 }, (_, index) => `s${250 + index}`));
});

test("a list from what is kept begins with the oldest, and one from before it is refused", async () => {
  for (const name of ["a", "b", "c"]) store.append(...changes(name));
  store.oldest = 2n;

  expect(names((await log.page(query({}))).events)).toEqual(["c"]);
  await expect(log.page(query({ after: { storeUid, revision: 1n } }))).rejects.toMatchObject({
    reason: "REVISION_COMPACTED",
  });
  await expect(log.page(query({ after: { storeUid: "another", revision: 3n } }))).rejects.toMatchObject({
    reason: "STORE_CHANGED",
  });
});

describe("the newest events", () => {
  test("come oldest first, however large the transactions are", async () => {
    store.append(...changes("first"));
    store.append(...changes(...Array.from({ length: 1_500 }, (_, index) => `s${index}`)));
    store.append(...changes("last"));

    const page = await log.tail(3, query({}));

    expect(names(page.events)).toEqual(["s1498", "s1499", "last"]);
  });

  test("are found behind many that do not match", async () => {
    store.append(...changes("rare"));
    for (let index = 0; index < 2_500; index++) store.append(...changes("common"));

    const page = await log.tail(5, query({ matches: ({ service }) => service?.name === "rare" }));

    expect(names(page.events)).toEqual(["rare"]);
  });

  test("cannot be asked for together with a place to begin at", () => {
    expect(() => checkTail({ tail: 1, pageToken: "", after: undefined, since: new Date() })).toThrow(/^tail:/);
    expect(() => checkTail({ tail: 0, pageToken: "x", after: undefined, since: undefined })).not.toThrow();
  });
});

function query(o: Partial<EventQuery>): EventQuery {
  const signal = new AbortController().signal;
  return {
    pageSize: 50,
    pageToken: "",
    filter: "",
    matches: () => true,
    after: undefined,
    since: undefined,
    signal,
    ...o,
  };
}

function changes(...all: readonly string[]): Change[] {
  return all.map((name) => [{ type: "service_created" }, aService({ name })]);
}

function isOfWeb({ service }: Event): boolean {
  return service?.name === "web";
}

function names(events: readonly Event[]): (string | undefined)[] {
  return events.map(({ service }) => service?.name);
}
