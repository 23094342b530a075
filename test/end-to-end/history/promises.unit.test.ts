import { describe, expect, test } from "vitest";
import {
  brokenPromises,
  Log,
  type LoggedEvent,
  type Recording,
  type SeenChange,
  type SeenService,
  type ToldMessage,
  type ToldStream,
} from "./promises.ts";

const service = (name: string, revision: bigint, team: string): SeenService => ({
  ...{ name, uid: `uid-${name}`, revision, kind: "external", wish: "running", generation: 1n, state: "external" },
  ...{ ready: true, pid: 0, instanceId: "", setName: "", labels: { team } },
});

const event = (place: string, type: string, after?: SeenService, bytes = 1_000): LoggedEvent => {
  const [revision = "", index] = place.split(".");
  return {
    ...{ revision: BigInt(revision), index: Number(index), type, service: after?.name ?? "", message: type, bytes },
    ...{ serviceUid: after?.uid ?? "", generation: 1n, actor: "operator", requestId: `request-${revision}`, node: "n" },
    after,
  };
};

const [a1, b2, c2] = [service("a", 1n, "red"), service("b", 2n, "blue"), service("c", 2n, "red")];
const [a3, b4] = [service("a", 3n, "blue"), service("b", 4n, "blue")];
const [c6, a7] = [service("c", 6n, "red"), service("a", 7n, "red")];

const log = new Log([
  event("1.0", "service_created", a1),
  event("2.0", "service_created", b2),
  event("2.1", "service_created", c2),
  event("3.0", "service_updated", a3),
  { ...event("4.0", "wish_changed", b2), after: undefined },
  event("4.1", "service_deleted", b4),
  event("5.0", "server_started"),
  event("6.0", "service_updated", c6),
  event("7.0", "service_updated", a7),
]);

const opened = (cursor?: bigint, head = 7n): ToldMessage => ({ kind: "opened", head, cursor });
const progress = (cursor: bigint): ToldMessage => ({ kind: "progress", cursor });
const end = (cursor: bigint): ToldMessage => ({ kind: "snapshotEnd", cursor });
const batch = (cursor: bigint, ...places: string[]): ToldMessage => ({
  ...{ kind: "events", cursor },
  events: places.map((place) => {
    const logged = log.events.find(({ revision, index }) => `${revision}.${index}` === place);
    if (logged === undefined) throw new Error(`there is no event ${place}`);
    return { ...logged, after: undefined };
  }),
});
const changes = (cursor: bigint | undefined, ...told: readonly [SeenChange["type"], SeenService][]): ToldMessage => ({
  ...{ kind: "changes", cursor },
  changes: told.map(([type, of]) => ({ type, service: of })),
});
const stream = (after: bigint | undefined, ...messages: ToldMessage[]): ToldStream => ({
  ...{ after, messages, end: undefined },
});

const isRed = ({ labels }: SeenService) => labels["team"] === "red";

/** The promises that watchers of events would say were broken, if they were told this. */
const ofEvents = (...streams: ToldStream[]) =>
  broken({ watcher: "events", watched: { of: "events", matches: () => true, withServices: false }, streams });
const ofCreations = (...streams: ToldStream[]) =>
  broken({
    ...{ watcher: "creations", streams },
    watched: { of: "events", matches: ({ type }) => type === "service_created", withServices: false },
  });
const ofServices = (...streams: ToldStream[]) =>
  broken({ watcher: "services", watched: { of: "services", matches: () => true }, streams });
const ofReds = (...streams: ToldStream[]) =>
  broken({ watcher: "reds", watched: { of: "services", matches: isRed }, streams });

function broken(recording: Recording, of = log): string[] {
  return [...new Set(brokenPromises(of, { recordings: [recording], lists: [] }).map(({ promise }) => promise))].sort();
}

const all = ["1.0", "2.0", "2.1", "3.0", "4.0", "4.1", "5.0", "6.0", "7.0"];

describe("what is as promised is not refused:", () => {
  test("a watch of events from the beginning, cut and resumed, in one batch or in many", () => {
    expect(ofEvents(stream(0n, opened(0n), batch(7n, ...all)))).toEqual([]);
    expect(
      ofEvents(
        stream(0n, opened(0n), batch(2n, "1.0", "2.0", "2.1"), batch(3n, "3.0"), progress(3n)),
        stream(3n, opened(3n), batch(5n, "4.0", "4.1", "5.0")),
        stream(5n, opened(5n), batch(6n, "6.0"), batch(7n, "7.0"), progress(7n)),
      ),
    ).toEqual([]);
  });

  test("a watch of events from now on, and one with a filter whose cursors pass what it does not tell", () => {
    expect(ofEvents(stream(undefined, opened(5n), batch(7n, "6.0", "7.0")))).toEqual([]);
    expect(ofCreations(stream(0n, opened(0n), batch(2n, "1.0", "2.0", "2.1"), progress(5n), progress(7n)))).toEqual([]);
  });

  test("a watch of services: a snapshot, its changes, a stream that breaks before the snapshot is complete", () => {
    expect(
      ofServices(
        stream(undefined, opened(), changes(undefined, ["snapshot", a1])),
        stream(
          undefined,
          opened(),
          changes(undefined, ["snapshot", a1]),
          changes(undefined, ["snapshot", b2], ["snapshot", c2]),
          end(2n),
          changes(4n, ["changed", a3], ["gone", b4]),
        ),
        stream(4n, opened(4n), progress(5n), changes(7n, ["changed", c6], ["changed", a7])),
      ),
    ).toEqual([]);
  });

  test("a watch of services with a filter: what leaves it is gone, what comes back is changed", () => {
    expect(
      ofReds(
        stream(
          undefined,
          opened(),
          changes(undefined, ["snapshot", a1], ["snapshot", c2]),
          end(2n),
          changes(3n, ["gone", a3]),
          progress(5n),
        ),
        stream(5n, opened(5n), changes(7n, ["changed", c6], ["changed", a7])),
      ),
    ).toEqual([]);
  });

  test("one that resumed may be told that something is gone which it never saw, but not twice", () => {
    const told = [opened(1n), changes(2n, ["changed", c2]), changes(4n, ["gone", a3])];
    expect(ofReds(stream(1n, ...told))).toEqual([]);
    expect(ofReds(stream(3n, opened(3n), changes(4n, ["gone", b4]), changes(6n, ["changed", c6])))).toEqual([]);
  });

  test("a revision that is too large for one message may come in several, and a stream may break in its middle", () => {
    const large = new Log([
      event("1.0", "service_created", a1),
      event("2.0", "service_created", b2, 600_000),
      event("2.1", "service_created", c2, 600_000),
    ]);
    const watched = { of: "services", matches: () => true } as const;
    const part = [opened(1n, 2n), changes(1n, ["changed", b2])];
    const streams = [stream(1n, ...part), stream(1n, ...part, changes(2n, ["changed", c2]))];

    expect(broken({ watcher: "services", watched, streams }, large)).toEqual([]);
    expect(broken({ watcher: "services", watched, streams }, log)).toContain("Atomic");
  });

  test("a list of what there was", () => {
    const list = { lister: "list", revision: 4n, matches: isRed, services: [c2] };
    expect(brokenPromises(log, { recordings: [], lists: [list] })).toEqual([]);
  });
});

describe("of a watch of events is refused", () => {
  test.each<[what: string, promise: string, ToldStream[]]>([
    ["two events that change places", "Ordered", [stream(0n, opened(0n), batch(3n, "1.0", "3.0", "2.0", "2.1"))]],
    [
      "two events of one revision that change places",
      "Ordered",
      [stream(0n, opened(0n), batch(2n, "1.0", "2.1", "2.0"))],
    ],
    ["an event that comes twice", "Unique", [stream(0n, opened(0n), batch(2n, "1.0", "2.0", "2.1", "2.1"))]],
    [
      "an event that comes again in a later batch",
      "Unique",
      [stream(0n, opened(0n), batch(2n, "1.0", "2.0", "2.1"), batch(3n, "2.1", "3.0"))],
    ],
    [
      "an event that is left out",
      "Reliable",
      [stream(0n, opened(0n), batch(5n, "1.0", "2.0", "2.1", "4.0", "4.1", "5.0"))],
    ],
    ["half of a revision", "Reliable", [stream(0n, opened(0n), batch(3n, "1.0", "2.0", "3.0"))]],
    [
      "the end of a log that a progress passes over",
      "Reliable",
      [stream(0n, opened(0n), batch(5n, ...all.slice(0, 7)), progress(7n))],
    ],
    ["a revision in two batches", "Atomic", [stream(0n, opened(0n), batch(1n, "1.0", "2.0"), batch(3n, "2.1", "3.0"))]],
    [
      "a revision in two batches that both have its cursor",
      "Atomic",
      [stream(0n, opened(0n), batch(2n, "1.0", "2.0"), batch(3n, "2.1", "3.0"))],
    ],
    [
      "an event of before the cursor that a stream was resumed after",
      "Resumable",
      [stream(3n, opened(3n), batch(4n, "3.0", "4.0", "4.1"))],
    ],
    [
      "an event that is left out right behind the cursor",
      "Resumable",
      [stream(2n, opened(2n), batch(4n, "4.0", "4.1"))],
    ],
    ["a stream that stands elsewhere than asked", "Resumable", [stream(2n, opened(3n), batch(4n, "4.0", "4.1"))]],
    [
      "an event after its bookmark",
      "Bookmarkable",
      [stream(0n, opened(0n), batch(2n, "1.0", "2.0", "2.1"), progress(3n), batch(4n, "3.0", "4.0", "4.1"))],
    ],
    ["a cursor that goes back", "Bookmarkable", [stream(0n, opened(0n), batch(3n, ...all.slice(0, 4)), progress(2n))]],
    [
      "a cursor that is ahead of the log",
      "Bookmarkable",
      [stream(5n, opened(5n), batch(7n, "6.0", "7.0"), progress(8n))],
    ],
    ["a stream that does not say that it stands", "Opened", [stream(0n, batch(7n, ...all))]],
    ["a stream that says so twice", "Opened", [stream(5n, opened(5n), opened(5n))]],
    ["a stream that ends without a reason", "Ended", [{ ...stream(5n, opened(5n)), end: "" }]],
    ["a stream that ends with a wrong reason", "Ended", [{ ...stream(5n, opened(5n)), end: "REVISION_COMPACTED" }]],
  ])("%s: %s", (_, promise, streams) => {
    expect(ofEvents(...streams)).toContain(promise);
  });

  test("an event that the filter keeps out, or one that it lets through and that is left out", () => {
    expect(ofCreations(stream(0n, opened(0n), batch(3n, "1.0", "2.0", "2.1", "3.0")))).toEqual(["Filtered"]);
    expect(ofCreations(stream(0n, opened(0n), batch(3n, "1.0", "2.1")))).toEqual(["Reliable"]);
  });

  test("an event that is not as in the log, or comes with another service than it left", () => {
    const [first] = log.events;
    if (first === undefined) throw new Error("there is no event");
    const watched = { of: "events", matches: () => true, withServices: true } as const;
    const told = (changed: Partial<LoggedEvent>) => {
      const message: ToldMessage = { kind: "events", cursor: 1n, events: [{ ...first, ...changed }] };
      return broken({ watcher: "events", watched, streams: [stream(0n, opened(0n), message)] });
    };

    expect(told({})).toEqual([]);
    expect(told({ message: "another" })).toContain("True");
    expect(told({ after: a3 })).toContain("True");
    expect(told({ after: undefined })).toContain("True");
  });
});

describe("of a watch of services is refused", () => {
  const snapshot = [opened(), changes(undefined, ["snapshot", a1], ["snapshot", b2], ["snapshot", c2]), end(2n)];

  test.each<[what: string, promise: string, ToldStream[]]>([
    [
      "a snapshot that is not in the order of names",
      "Ordered",
      [stream(undefined, opened(), changes(undefined, ["snapshot", b2], ["snapshot", a1], ["snapshot", c2]), end(2n))],
    ],
    [
      "a snapshot that has one twice",
      "Unique",
      [
        stream(
          undefined,
          opened(),
          changes(undefined, ["snapshot", a1], ["snapshot", a1], ["snapshot", b2], ["snapshot", c2]),
          end(2n),
        ),
      ],
    ],
    [
      "a snapshot that lacks one",
      "Seamless",
      [stream(undefined, opened(), changes(undefined, ["snapshot", a1], ["snapshot", c2]), end(2n))],
    ],
    [
      "a snapshot that shows one as it was later",
      "Seamless",
      [stream(undefined, opened(), changes(undefined, ["snapshot", a3], ["snapshot", b2], ["snapshot", c2]), end(2n))],
    ],
    [
      "a snapshot that can be resumed in its middle",
      "Bookmarkable",
      [stream(undefined, opened(2n), ...snapshot.slice(1))],
    ],
    [
      "a change that is in the snapshot already",
      "Seamless",
      [stream(undefined, ...snapshot, changes(3n, ["changed", c2], ["changed", a3]))],
    ],
    [
      "a change right after the snapshot that is left out",
      "Reliable",
      [stream(undefined, ...snapshot, changes(4n, ["gone", b4]))],
    ],
    ["a deletion that is left out", "Reliable", [stream(undefined, ...snapshot, changes(5n, ["changed", a3]))]],
    [
      "a change that comes twice",
      "Unique",
      [stream(undefined, ...snapshot, changes(3n, ["changed", a3]), changes(4n, ["changed", a3], ["gone", b4]))],
    ],
    [
      "changes that change places",
      "Ordered",
      [stream(undefined, ...snapshot, changes(4n, ["gone", b4], ["changed", a3]))],
    ],
    [
      "a change after its bookmark",
      "Bookmarkable",
      [stream(undefined, ...snapshot, progress(3n), changes(4n, ["changed", a3], ["gone", b4]))],
    ],
    [
      "a change right behind the cursor that is left out",
      "Resumable",
      [stream(5n, opened(5n), changes(7n, ["changed", a7]))],
    ],
    [
      "a service that is not as in the log",
      "True",
      [stream(5n, opened(5n), changes(7n, ["changed", { ...c6, state: "running" }], ["changed", a7]))],
    ],
    [
      "one that is said to be gone and is not",
      "Filtered",
      [stream(5n, opened(5n), changes(7n, ["gone", c6], ["changed", a7]))],
    ],
  ])("%s: %s", (_, promise, streams) => {
    expect(ofServices(...streams)).toContain(promise);
  });

  test("with a filter: what does not match, what leaves it in silence, what was never shown and is said to be gone", () => {
    const reds = [opened(), changes(undefined, ["snapshot", a1], ["snapshot", c2]), end(2n)];

    expect(ofReds(stream(undefined, ...snapshot))).toEqual(["Filtered"]);
    expect(ofReds(stream(undefined, ...reds, changes(3n, ["changed", a3])))).toContain("Filtered");
    expect(ofReds(stream(undefined, ...reds, progress(3n)))).toEqual(["Filtered"]);
    expect(ofReds(stream(2n, opened(2n), progress(3n)))).toEqual(["Filtered"]);
    expect(ofReds(stream(undefined, ...reds, changes(4n, ["gone", a3], ["gone", b4])))).toEqual(["Filtered"]);
    expect(ofReds(stream(undefined, ...reds, changes(3n, ["gone", a3]), changes(7n, ["changed", c6])))).toEqual([
      "Reliable",
    ]);
  });
});

test("a list that shows something else than there was is refused", () => {
  const lists = [[c2, a3], [], [a1, c2]].map((services) => ({
    ...{ lister: "list", revision: 4n, matches: isRed, services },
  }));

  for (const list of lists)
    expect(brokenPromises(log, { recordings: [], lists: [list] }).map(({ promise }) => promise)).toContain("Seamless");
});

test("a log with a gap is none", () => {
  expect(() => new Log([event("1.0", "server_started"), event("3.0", "server_started")])).toThrow("3.0 after 1.0");
  expect(() => new Log([event("1.0", "server_started"), event("1.2", "server_started")])).toThrow("1.2 after 1.0");
});
