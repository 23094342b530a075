import { create, fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  ServiceChangeType,
  WatchServicesRequestSchema,
  type WatchServicesResponse,
  WatchServicesResponseSchema,
} from "../../gen/steward/v1/service_registry_pb.ts";
import { type Clock, systemClock } from "../../src/domain/clock.ts";
import type { EventBody } from "../../src/domain/event.ts";
import type { Service } from "../../src/domain/service.ts";
import type { Feed } from "../../src/events/feed.ts";
import { binaryCodec, envelopeBytes, type Shared } from "../../src/rpc/handler.ts";
import { ServiceWatch } from "../../src/rpc/watch-services.ts";
import { aService, aStatus } from "./arbitrary.ts";
import { aCall } from "./call-context.ts";
import { type Change, MemoryLog, storeUid } from "./memory-log.ts";
import { pumped } from "./pumped.ts";

const created: EventBody = { type: "service_created" };
const updated: EventBody = { type: "service_updated", paths: ["spec.labels"], restarts: false };
const deleted: EventBody = { type: "service_deleted" };
const ready: EventBody = { type: "instance_ready", instanceId: "i", pid: 1 };

let log: MemoryLog;
let feed: Feed;

beforeEach(async () => {
  log = new MemoryLog();
  feed = log.feed();
  await feed.start();
});

afterEach(() => feed.stop());

test("a watch without a cursor tells first that it stands, then what is, then that this was all", async () => {
  log.append([created, aService({ name: "web" })]);
  log.append([created, aService({ name: "db" })]);

  const told = await take(watch(), 3);

  expect(told.map(words)).toEqual(["opened", "snapshot db, snapshot web", "snapshotEnd @2"]);
});

test("what is true of a snapshot's middle cannot be resumed: it has no cursor yet", async () => {
  log.append([created, aService({ name: "web" })]);

  const [opened, batch, end] = await take(watch(), 3);

  expect([opened?.cursor, batch?.cursor]).toEqual([undefined, undefined]);
  expect(end?.cursor).toMatchObject({ storeUid, revision: 1n });
});

test("changes follow the snapshot without a gap and without a duplicate", async () => {
  log.append([created, aService({ name: "a" })]);
  const told = watch();
  const before = await take(told, 1, { keep: true });
  // Between the feed's place and the snapshot: in the snapshot, and not told twice.
  log.append([created, aService({ name: "b" })]);

  before.push(...(await take(told, 2, { keep: true })));
  log.append([updated, aService({ name: "a" })]);
  before.push(...(await take(told, 1)));

  expect(before.map(words)).toEqual(["opened", "snapshot a, snapshot b", "snapshotEnd @2", "changed a @3"]);
});

test("several events of one transaction are one change of a service", async () => {
  const told = watch({ after: { storeUid: "", revision: await appended([created, aService({ name: "a" })]) } });
  log.append([updated, aService({ name: "a" })], [ready, aService({ name: "a" })], [created, aService({ name: "b" })]);

  expect((await take(told, 2)).map(words)).toEqual(["opened @1", "changed a, changed b @2"]);
});

test("a deleted service is told of once more, as gone", async () => {
  const told = watch({ after: { storeUid, revision: await appended([created, aService({ name: "a" })]) } });
  log.append([deleted, aService({ name: "a" })]);

  expect((await take(told, 2)).map(words)).toEqual(["opened @1", "gone a @2"]);
});

describe("with a filter", () => {
  const filter = 'state = "RUNNING"';
  const running = (name: string) => aService({ name });
  const stopped = (name: string) => aService({ name, status: aStatus({ state: "stopped" }) });

  test("a service that stops matching is gone, and one that never matched is never mentioned", async () => {
    log.append([created, running("seen")], [created, stopped("unseen")]);
    const told = watch({ filter });
    const start = await take(told, 3, { keep: true });
    log.append([updated, stopped("unseen")]);
    log.append([updated, stopped("seen")]);
    log.append([deleted, stopped("seen")]);
    log.append([updated, running("unseen")]);

    expect(start.map(words)).toEqual(["opened", "snapshot seen", "snapshotEnd @1"]);
    expect(changesOf(await until(told, "changed unseen"))).toEqual(["gone seen", "changed unseen"]);
  });

  test("a resumed watcher is told of each that no longer matches, for it may have been shown it", async () => {
    const revision = await appended([created, running("maybe")]);
    const told = watch({ filter, after: { storeUid, revision } });
    await take(told, 1, { keep: true });
    log.append([updated, stopped("maybe")]);
    log.append([updated, stopped("maybe")]);
    log.append([created, stopped("new")]);
    log.append([created, running("end")]);

    expect(changesOf(await until(told, "changed end"))).toEqual(["gone maybe", "changed end"]);
  });

  test("whatever happens, following a watch leads to what a list with the same filter shows", async () => {
    const names = ["a", "b", "c"];
    const anyStep = fc.record({
      name: fc.constantFrom(...names),
      state: fc.constantFrom("running" as const, "stopped" as const),
      isDeletion: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(anyStep), fc.nat({ max: 10 }), async (steps, resumeAt) => {
        const history = new MemoryLog();
        const its = history.feed();
        await its.start();
        const exists = new Set<string>();
        const seen = new Map<string, Service["status"]["state"]>();
        let started: AsyncGenerator<WatchServicesResponse> | undefined;
        for (const [index, { name, state, isDeletion }] of steps.entries()) {
          if (index === resumeAt) started = startedWatch(history, its, filter, seen, await history.snapshot());
          const service = aService({ name, uid: `uid-${name}`, status: aStatus({ state }) });
          if (isDeletion && !exists.has(name)) history.append([{ type: "proxy_up" }]);
          else if (isDeletion) history.append([deleted, service]);
          else history.append([exists.has(name) ? updated : created, service]);
          if (isDeletion) exists.delete(name);
          else exists.add(name);
        }
        started ??= startedWatch(history, its, filter, seen, await history.snapshot());
        const last = history.append([created, aService({ name: "end" })]);

        for await (const message of started) {
          if (message.message.case === "batch")
            for (const { type, service } of message.message.value.changes) {
              if (type === ServiceChangeType.GONE) seen.delete(service?.name ?? "");
              else seen.set(service?.name ?? "", "running");
            }
          if (message.cursor?.revision === last) break;
        }
        await its.stop();

        const listed = (await history.snapshot()).services.filter(({ status }) => status.state === "running");
        expect([...seen.keys()].sort()).toEqual(listed.map(({ name }) => name).sort());
      }),
    );
  });

  /** Half of the watches begin with a snapshot, the others resume after what somebody was shown before. */
  function startedWatch(
    history: MemoryLog,
    its: Feed,
    text: string,
    seen: Map<string, string>,
    now: { services: Service[]; revision: bigint },
  ): AsyncGenerator<WatchServicesResponse> {
    if (now.revision % 2n === 0n) return watch({ filter: text }, { log: history, feed: its });
    for (const { name, status } of now.services) if (status.state === "running") seen.set(name, "running");
    return watch({ filter: text, after: { storeUid, revision: now.revision } }, { log: history, feed: its });
  }
});

test("who may list some services only is told of those only", async () => {
  log.append([created, aService({ name: "mine" })], [created, aService({ name: "other" })]);
  const told = watch({}, { scopes: ["list:services!service=mine"] });
  const start = await take(told, 3, { keep: true });
  log.append([updated, aService({ name: "other" })], [updated, aService({ name: "mine" })]);

  expect([...start, ...(await take(told, 1))].map(words)).toEqual([
    "opened",
    "snapshot mine",
    "snapshotEnd @1",
    "changed mine @2",
  ]);
});

test("who may list nothing is refused before anything is read", async () => {
  await expect(take(watch({}, { scopes: [] }), 1)).rejects.toMatchObject({ reason: "SCOPE_MISSING" });
});

test("cursors of another store, of the future and of what is forgotten are refused, each with its reason", async () => {
  log.append([created, aService({ name: "a" })]);
  log.append([updated, aService({ name: "a" })]);
  log.oldest = 2n;
  const from = (after: { storeUid: string; revision: bigint }) => take(watch({ after }), 1);

  await expect(from({ storeUid: "another", revision: 2n })).rejects.toMatchObject({ reason: "STORE_CHANGED" });
  await expect(from({ storeUid, revision: 99n })).rejects.toMatchObject({ reason: "REVISION_IN_FUTURE" });
  await expect(from({ storeUid, revision: 1n })).rejects.toMatchObject({
    reason: "REVISION_COMPACTED",
    metadata: { requested: "1", oldest: "2" },
  });
});

test("a quiet watch tells of its progress, also past what it does not show", async () => {
  log.append([created, aService({ name: "a" })]);
  const told = watch({ filter: "name = nothing", progressInterval: { seconds: 1n } });
  await take(told, 2, { keep: true });
  log.append([updated, aService({ name: "a" })]);

  const [progress] = await take(told, 1);

  expect(words(progress)).toBe("progress @2");
});

test("a watch that is shown nothing tells of its progress also while other services change all the time", async () => {
  log.append([created, aService({ name: "a" })]);
  const told = watch({ filter: "name = nothing", progressInterval: { seconds: 1n } });
  await take(told, 2, { keep: true });
  const chatter = setInterval(() => log.append([updated, aService({ name: "a" })]), 20);

  const [progress] = await take(told, 1).finally(() => clearInterval(chatter));

  expect(progress?.message.case).toBe("progress");
});

test("a stream that is old enough ends with the advice to resume", async () => {
  const halfAnHourAgo: Clock = { ...systemClock, monotonicMs: () => performance.now() - 33 * 60_000 };
  const told = watch({}, { clock: halfAnHourAgo });

  await take(told, 2, { keep: true });

  await expect(told.next()).rejects.toMatchObject({ code: "unavailable", reason: "STREAM_MAX_AGE" });
});

test("a stream ends quietly when its client hangs up", async () => {
  const hangUp = new AbortController();
  const told = watch({}, { hangUp });
  await take(told, 2, { keep: true });

  hangUp.abort();

  expect(await told.next()).toEqual({ done: true, value: undefined });
});

test("a snapshot that is too large for one message comes in several", async () => {
  const info = { text: "x".repeat(60_000) };
  for (let index = 0; index < 40; index++) {
    const service = aService({ name: `s${String(index).padStart(2, "0")}` });
    log.append([created, { ...service, spec: { ...service.spec, info } }]);
  }

  const told = await until(watch(), "snapshotEnd");

  const batches = told.filter(({ message }) => message.case === "batch");
  expect(batches.length).toBeGreaterThan(2);
  expect(changesOf(told)).toHaveLength(40);
});

test("a transaction that is too large for one message comes in several, and only the last moves the cursor past it", async () => {
  log.append([created, aService({ name: "a" })]);
  const info = { text: "x".repeat(60_000) };
  const many = Array.from({ length: 40 }, (_, index): readonly [EventBody, Service] => {
    const service = aService({ name: `s${index}` });
    return [created, { ...service, spec: { ...service.spec, info } }];
  });
  const told = watch({ after: { storeUid, revision: 1n } });
  log.append(...many);

  const batches = await until(told, "changed s39");

  expect(changesOf(batches)).toHaveLength(40);
  expect(batches.map(({ cursor }) => cursor?.revision)).toEqual([
    1n,
    ...Array<bigint>(batches.length - 2).fill(1n),
    2n,
  ]);
});

test("many transactions that are too large for one message are cut between them where possible", async () => {
  log.append([created, aService({ name: "a" })]);
  const info = { text: "x".repeat(60_000) };
  const told = watch({ after: { storeUid, revision: 1n } });
  for (let index = 0; index < 40; index++) {
    const service = aService({ name: `s${index}` });
    log.append([created, { ...service, spec: { ...service.spec, info } }]);
  }

  const batches = await until(told, "changed s39");

  let sent = 0n;
  for (const batch of batches) {
    sent += BigInt(changesOf([batch]).length);
    expect(batch.cursor?.revision).toBe(1n + sent);
  }
  expect(batches.length).toBeGreaterThan(3);
});

test("a transaction that fits into one message is not cut, however much comes before it", async () => {
  log.append([created, aService({ name: "a" })]);
  const info = { text: "x".repeat(60_000) };
  const large = (name: string): readonly [EventBody, Service] => {
    const service = aService({ name });
    return [created, { ...service, spec: { ...service.spec, info } }];
  };
  const told = watch({ after: { storeUid, revision: 1n } });
  for (let index = 0; index < 16; index++) log.append(large(`s${index}`));
  log.append(large("one"), large("two"));

  const batches = await until(told, "two");

  expect(changesOf(batches.slice(0, -1))).not.toContain("changed one");
  expect(batches.at(-1)?.cursor?.revision).toBe(18n);
});

test("watchers that see the same are sent the same message, made once", async () => {
  const revision = await appended([created, aService({ name: "a" })]);
  const serviceWatch = new ServiceWatch({ feed, registry: log, clock: systemClock });
  const request = create(WatchServicesRequestSchema, { after: { storeUid, revision } });
  const [one, other] = [pumped(serviceWatch.watch(request, aCall())), pumped(serviceWatch.watch(request, aCall()))];
  await Promise.all([one.next(), other.next()]);
  log.append([updated, aService({ name: "a" })]);

  const [first, second] = await Promise.all([one.next(), other.next()]);
  await Promise.all([one.return(undefined), other.return(undefined)]);

  expect(first.value).toBe(second.value);
});

test("of two watchers that see the same each is told what is gone, whichever of them was told first what there is", async () => {
  const serviceWatch = new ServiceWatch({ feed, registry: log, clock: systemClock });
  const request = create(WatchServicesRequestSchema, {});
  const [one, other] = [pumped(serviceWatch.watch(request, aCall())), pumped(serviceWatch.watch(request, aCall()))];
  for (const told of [one, other]) for (const _ of ["opened", "snapshotEnd"]) await told.next();
  log.append([created, aService({ name: "a" })]);
  for (const told of [one, other]) await told.next();
  log.append([deleted, aService({ name: "a" })]);

  const gone = [await other.next(), await one.next()];
  await Promise.all([one.return(undefined), other.return(undefined)]);

  expect(gone.map(({ value }) => words(value?.message))).toEqual(["gone a @2", "gone a @2"]);
});

async function appended(...changes: readonly Change[]): Promise<bigint> {
  const revision = log.append(...changes);
  await feed.reached(revision, AbortSignal.timeout(5_000));
  return revision;
}

function watch(
  request: MessageInitShape<typeof WatchServicesRequestSchema> = {},
  o: { scopes?: string[]; clock?: Clock; hangUp?: AbortController; log?: MemoryLog; feed?: Feed } = {},
): AsyncGenerator<WatchServicesResponse> {
  const serviceWatch = new ServiceWatch({
    feed: o.feed ?? feed,
    registry: o.log ?? log,
    clock: o.clock ?? systemClock,
  });
  return messages(serviceWatch.watch(create(WatchServicesRequestSchema, request), aCall(o.scopes, o.hangUp)));
}

async function* messages(
  responses: ReturnType<ServiceWatch["watch"]>,
): AsyncGenerator<WatchServicesResponse, void, undefined> {
  for await (const response of pumped(responses)) {
    expect(decoded(response)).toEqual(response.message);
    yield response.message;
  }
}

/** The next messages; closes the watch unless told to keep it. */
async function take(
  told: AsyncGenerator<WatchServicesResponse>,
  count: number,
  { keep = false } = {},
): Promise<WatchServicesResponse[]> {
  const taken: WatchServicesResponse[] = [];
  while (taken.length < count) {
    const { value, done } = await told.next();
    if (done === true) break;
    taken.push(value);
  }
  if (!keep) await told.return(undefined);
  return taken;
}

async function until(told: AsyncGenerator<WatchServicesResponse>, last: string): Promise<WatchServicesResponse[]> {
  const taken: WatchServicesResponse[] = [];
  for await (const message of told) {
    taken.push(message);
    if (words(message).includes(last)) break;
  }
  return taken;
}

function words(response: WatchServicesResponse | undefined): string {
  const at = response?.cursor === undefined ? "" : ` @${response.cursor.revision}`;
  const what = response?.message.case === "batch" ? changesOf([response]).join(", ") : response?.message.case;
  return `${what}${at}`;
}

function changesOf(responses: readonly WatchServicesResponse[]): string[] {
  const word = {
    [ServiceChangeType.SNAPSHOT]: "snapshot",
    [ServiceChangeType.CHANGED]: "changed",
    [ServiceChangeType.GONE]: "gone",
  };
  return responses.flatMap(({ message }) =>
    message.case === "batch"
      ? message.value.changes.map(({ type, service }) => `${(word as Record<number, string>)[type]} ${service?.name}`)
      : [],
  );
}

/** What a client gets. */
function decoded(response: Shared<typeof WatchServicesResponseSchema>): WatchServicesResponse {
  return fromBinary(WatchServicesResponseSchema, response.frame(binaryCodec).subarray(envelopeBytes));
}
