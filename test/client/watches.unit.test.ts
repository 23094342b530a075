import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createRouterTransport } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { ServiceSchema } from "../../gen/steward/v1/service_pb.ts";
import {
  ServiceChangeType,
  ServiceRegistry,
  type WatchServicesRequest,
  type WatchServicesResponseSchema,
} from "../../gen/steward/v1/service_registry_pb.ts";
import {
  Supervisor,
  type WatchEventsRequest,
  type WatchEventsResponseSchema,
} from "../../gen/steward/v1/supervisor_pb.ts";
import { clientOf } from "../../src/client/calls.ts";
import { StewardError } from "../../src/client/errors.ts";
import { watchEvents } from "../../src/client/watch-events.ts";
import { type ServicesUpdate, watchServices } from "../../src/client/watch-services.ts";
import { AppError, type ErrorCode, type ErrorReason } from "../../src/domain/errors.ts";
import { rpcError } from "../../src/rpc/errors.ts";

type EventsResponse = MessageInitShape<typeof WatchEventsResponseSchema>;
type ServicesResponse = MessageInitShape<typeof WatchServicesResponseSchema>;

/** One stream of a scripted server: what it sends, then how it ends. A watch that opens more streams than there are scripts is told to go away. */
type Script<M> = readonly (M | Error)[];

test("events go on after the last cursor, whatever broke the stream", async () => {
  const server = eventServer(
    [events(3n, 1n, 2n, 3n), failure("unavailable", "SERVER_DRAINING")],
    [events(4n, 4n), new ConnectError("reset", Code.Aborted)],
    [progress(9n), failure("resource_exhausted", "WATCHER_TOO_SLOW")],
    [],
    [events(10n, 10n)],
  );

  const { told, error } = await collect(watchEvents(server.client, { filter: "service = a" }, {}));

  expect(told.flatMap(revisions)).toEqual([1n, 2n, 3n, 4n, 10n]);
  expect(server.requests.map(({ after }) => after?.revision)).toEqual([undefined, 3n, 4n, 9n, 9n, 10n]);
  expect(server.requests.every(({ filter }) => filter === "service = a")).toBe(true);
  expect(error).toMatchObject({ code: Code.PermissionDenied });
});

test("of a revision that was cut nothing is told twice", async () => {
  const server = eventServer(
    [events(4n, 4n, 5n), failure("unavailable", "STREAM_MAX_AGE")],
    [events(4n, 5n), events(6n, 5n, 6n)],
  );

  const { told } = await collect(watchEvents(server.client, {}, {}));

  expect(told.flatMap(revisions)).toEqual([4n, 5n, 5n, 6n]);
  expect(server.requests.map(({ after }) => after?.revision)).toEqual([undefined, 4n, 6n]);
});

test.each([
  ["out_of_range", "REVISION_COMPACTED"],
  ["failed_precondition", "STORE_CHANGED"],
] as const)("events begin anew with the oldest after %s %s, and a gap says so", async (code, reason) => {
  const server = eventServer([failure(code, reason)], [events(7n, 7n)]);

  const { told } = await collect(watchEvents(server.client, { after: { storeUid: "old", revision: 2n } }, {}));

  expect(told.map(({ kind }) => kind)).toEqual(["gap", "events"]);
  expect(server.requests[1]?.after).toMatchObject({ storeUid: "", revision: 0n });
});

test.each([
  ["invalid_argument", "FILTER_INVALID"],
  ["failed_precondition", "REVISION_IN_FUTURE"],
  ["unauthenticated", "TOKEN_INVALID"],
  ["permission_denied", "SCOPE_MISSING"],
] as const)("what does not pass by itself is thrown: %s %s", async (code, reason) => {
  const server = eventServer([failure(code, reason)]);

  const { error } = await collect(watchEvents(server.client, {}, {}));

  expect(error).toBeInstanceOf(StewardError);
  expect(server.requests).toHaveLength(1);
});

test("a token that ended in the middle is asked for once more", async () => {
  const server = eventServer(
    [progress(1n), failure("unauthenticated", "TOKEN_EXPIRED")],
    [failure("unauthenticated", "TOKEN_EXPIRED")],
  );

  const { error } = await collect(watchEvents(server.client, {}, {}));

  expect(error).toMatchObject({ code: Code.Unauthenticated });
  expect(server.requests).toHaveLength(2);
});

test("it waits at least as long as the server says, and an abort ends the wait", async () => {
  const server = eventServer([failure("unavailable", "STORE_UNAVAILABLE", 3_600_000)]);
  const ending = new AbortController();
  const delays: number[] = [];
  const onInterrupted = (_: StewardError, delayMs: number) => {
    delays.push(delayMs);
    ending.abort();
  };

  const { told, error } = await collect(watchEvents(server.client, {}, { signal: ending.signal, onInterrupted }));

  expect({ told, error }).toEqual({ told: [], error: undefined });
  expect(delays).toEqual([3_600_000]);
});

test("services are told as one snapshot, however it was cut, then as changes", async () => {
  const server = serviceServer(
    [opened, snapshot("a", "b"), failure("unavailable", "SERVER_DRAINING")],
    [opened, snapshot("a"), snapshot("b"), snapshotEnd(5n), changes(6n, ["a", 6n], ["b", 6n, "gone"])],
  );

  const { told } = await collect(watchServices(server.client, {}, {}));

  expect(told.map(summary)).toEqual(["snapshot a b", "changes a changed, b gone"]);
  expect(server.requests.map(({ after }) => after?.revision)).toEqual([undefined, undefined, 6n]);
});

test("changes of a revision that was cut are told once it is whole", async () => {
  const server = serviceServer(
    [snapshotEnd(1n), changes(2n, ["a", 2n], ["b", 3n]), failure("unavailable", "STREAM_MAX_AGE")],
    [changes(2n, ["b", 3n]), changes(3n, ["c", 3n])],
  );

  const { told } = await collect(watchServices(server.client, {}, {}));

  expect(told.map(summary)).toEqual(["snapshot ", "changes a changed", "changes b changed, c changed"]);
});

test("deletions of a revision that was cut are told once it is whole", async () => {
  const server = serviceServer(
    [snapshotEnd(1n), changes(2n, ["a", 3n, "gone"]), failure("unavailable", "STREAM_MAX_AGE")],
    [changes(2n, ["a", 3n, "gone"]), changes(3n, ["b", 3n, "gone"])],
  );

  const { told } = await collect(watchServices(server.client, {}, {}));

  expect(told.map(summary)).toEqual(["snapshot ", "changes a gone, b gone"]);
});

test.each([
  ["out_of_range", "REVISION_COMPACTED"],
  ["failed_precondition", "STORE_CHANGED"],
] as const)("a new snapshot is taken after %s %s", async (code, reason) => {
  const server = serviceServer([failure(code, reason)], [snapshot("a"), snapshotEnd(5n)]);

  const { told } = await collect(watchServices(server.client, { after: { storeUid: "old", revision: 2n } }, {}));

  expect(told.map(summary)).toEqual(["snapshot a"]);
  expect(server.requests.map(({ after }) => after?.revision)).toEqual([2n, undefined, 5n]);
});

function eventServer(...scripts: Script<EventsResponse>[]) {
  const requests: WatchEventsRequest[] = [];
  const transport = createRouterTransport(({ rpc }) => {
    rpc(Supervisor.method.watchEvents, (request) => {
      requests.push(request);
      return play(scripts.shift());
    });
  });
  return { requests, client: clientOf(Supervisor, transport) };
}

function serviceServer(...scripts: Script<ServicesResponse>[]) {
  const requests: WatchServicesRequest[] = [];
  const transport = createRouterTransport(({ rpc }) => {
    rpc(ServiceRegistry.method.watchServices, (request) => {
      requests.push(request);
      return play(scripts.shift());
    });
  });
  return { requests, client: clientOf(ServiceRegistry, transport) };
}

async function* play<M>(script: Script<M> = [failure("permission_denied", "SCOPE_MISSING")]): AsyncGenerator<M> {
  for (const step of script) {
    if (step instanceof Error) throw step;
    yield step;
  }
}

async function collect<T>(updates: AsyncIterable<T>): Promise<{ told: T[]; error: unknown }> {
  const told: T[] = [];
  try {
    for await (const update of updates) told.push(update);
    return { told, error: undefined };
  } catch (error) {
    return { told, error };
  }
}

function failure(code: ErrorCode, reason: ErrorReason, retryAfterMs?: number): Error {
  const details = retryAfterMs === undefined ? {} : { retryAfterMs };
  return rpcError(new AppError(code, reason, "as the test says", details), "call-1");
}

function cursor(revision: bigint) {
  return { storeUid: "store", revision };
}

function events(upTo: bigint, ...of: bigint[]): EventsResponse {
  return {
    cursor: cursor(upTo),
    message: { case: "batch", value: { events: of.map((revision) => ({ revision })) } },
  };
}

function progress(upTo: bigint): EventsResponse {
  return { cursor: cursor(upTo), message: { case: "progress", value: {} } };
}

function revisions(update: { kind: string; events?: readonly { revision: bigint }[] }): bigint[] {
  return update.events?.map(({ revision }) => revision) ?? [];
}

const opened: ServicesResponse = { message: { case: "opened", value: {} } };

function snapshot(...names: string[]): ServicesResponse {
  const services = names.map((name) => ({
    type: ServiceChangeType.SNAPSHOT,
    service: create(ServiceSchema, { name, revision: 5n }),
  }));
  return { message: { case: "batch", value: { changes: services } } };
}

function snapshotEnd(upTo: bigint): ServicesResponse {
  return { cursor: cursor(upTo), message: { case: "snapshotEnd", value: {} } };
}

function changes(upTo: bigint, ...of: (readonly [name: string, revision: bigint, gone?: "gone"])[]): ServicesResponse {
  const changed = of.map(([name, revision, gone]) => ({
    type: gone === undefined ? ServiceChangeType.CHANGED : ServiceChangeType.GONE,
    service: { name, revision },
  }));
  return { cursor: cursor(upTo), message: { case: "batch", value: { changes: changed } } };
}

function summary(update: ServicesUpdate): string {
  switch (update.kind) {
    case "snapshot":
      return `snapshot ${update.services.map(({ name }) => name).join(" ")}`;
    case "changes":
      return `changes ${update.changes.map(({ type, service }) => `${service.name} ${type}`).join(", ")}`;
    case "progress":
      return "progress";
  }
}
