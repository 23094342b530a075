import { create, fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { afterEach, beforeEach, expect, test } from "vitest";
import { EventType } from "../../gen/steward/v1/event_pb.ts";
import {
  WatchEventsRequestSchema,
  type WatchEventsResponse,
  WatchEventsResponseSchema,
} from "../../gen/steward/v1/supervisor_pb.ts";
import { systemClock } from "../../src/domain/clock.ts";
import type { Event, EventBody } from "../../src/domain/event.ts";
import type { Feed } from "../../src/events/feed.ts";
import { binaryCodec, envelopeBytes, type Shared } from "../../src/rpc/handler.ts";
import { EventWatch } from "../../src/rpc/watch-events.ts";
import { aService } from "./arbitrary.ts";
import { aCall } from "./call-context.ts";
import { MemoryLog, storeUid } from "./memory-log.ts";
import { pumped } from "./pumped.ts";

const created: EventBody = { type: "service_created" };
const deleted: EventBody = { type: "service_deleted" };

let log: MemoryLog;
let feed: Feed;

beforeEach(async () => {
  log = new MemoryLog();
  feed = log.feed();
  await feed.start();
});

afterEach(() => feed.stop());

test("a watch without a cursor tells of what happens from now on", async () => {
  await appended(created, "old");
  const told = watch();
  const [opened] = await take(told, 1, { keep: true });
  log.append([created, aService({ name: "new" })]);

  const [batch] = await take(told, 1);

  expect(opened).toMatchObject({
    cursor: { storeUid, revision: 1n },
    message: { case: "opened", value: { head: 1n } },
  });
  expect(namesIn(batch)).toEqual(["new"]);
  expect(batch?.cursor?.revision).toBe(2n);
});

test("a watch from revision 0 begins with the oldest event that is kept", async () => {
  await appended(created, "a");
  await appended(created, "b");
  log.oldest = 1n;

  const [, batch] = await take(watch({ after: { revision: 0n } }), 2);

  expect(namesIn(batch)).toEqual(["b"]);
});

test("filter and types both must let an event through", async () => {
  const told = watch({ filter: "service = web", types: [EventType.SERVICE_DELETED] });
  await take(told, 1, { keep: true });
  log.append([created, aService({ name: "web" })]);
  log.append([deleted, aService({ name: "db" })], [deleted, aService({ name: "web" })]);

  const [batch] = await take(told, 1);

  expect(namesIn(batch)).toEqual(["web"]);
  expect(batch?.cursor?.revision).toBe(2n);
});

test("services come with their events only if asked for and allowed, and never after their end", async () => {
  const scopes = ["read:events", "read:services!service=mine"];
  const told = watch({ includeServices: true }, scopes);
  await take(told, 1, { keep: true });
  log.append(
    [created, aService({ name: "mine" })],
    [created, aService({ name: "other" })],
    [deleted, aService({ name: "mine" })],
  );

  const [batch] = await take(told, 1);

  const events = batch?.message.case === "batch" ? batch.message.value.events : [];
  expect(events.map(({ after }) => after?.name)).toEqual(["mine", undefined, undefined]);
  await expect(take(watch({ includeServices: true }, ["read:events"]), 1)).rejects.toMatchObject({
    reason: "SCOPE_MISSING",
  });
});

test("who may see the events of one service sees no others, nor those of none", async () => {
  const told = watch({}, ["read:events!service=mine"]);
  await take(told, 1, { keep: true });
  log.append([{ type: "proxy_down" }], [created, aService({ name: "other" })], [created, aService({ name: "mine" })]);

  const [batch] = await take(told, 1);

  expect(namesIn(batch)).toEqual(["mine"]);
});

test("the interval of progress is kept within its bounds", async () => {
  const [short] = await take(watch({ progressInterval: { nanos: 1 } }), 1);
  const [long] = await take(watch({ progressInterval: { seconds: 10_000n } }), 1);

  expect(intervalOf(short)).toBeGreaterThanOrEqual(900);
  expect(intervalOf(short)).toBeLessThanOrEqual(1_100);
  expect(intervalOf(long)).toBeGreaterThanOrEqual(270_000);
  expect(intervalOf(long)).toBeLessThanOrEqual(330_000);
});

test("watchers are sent the same message only if they may see the same", async () => {
  const eventWatch = new EventWatch({ feed, clock: systemClock });
  const request = create(WatchEventsRequestSchema, { includeServices: true });
  const watchers = [["*"], ["*"], ["read:events", "read:services"]].map((scopes) =>
    pumped(eventWatch.watch(request, aCall(scopes))),
  );
  await Promise.all(watchers.map((each) => each.next()));
  log.append([created, aService({ name: "web" })]);

  const [one, same, other] = await Promise.all(watchers.map((each) => each.next()));
  await Promise.all(watchers.map((each) => each.return(undefined)));

  expect(one?.value).toBe(same?.value);
  expect(one?.value).not.toBe(other?.value);
});

test("an event is converted and encoded once, in whatever batches it comes and whatever their watchers filter by", async () => {
  const eventWatch = new EventWatch({ feed, clock: systemClock });
  const requests = [{}, {}, { filter: "service : *" }, { types: [EventType.SERVICE_CREATED] }, { filter: "actor = *" }];
  const watchers = requests.map((request) =>
    pumped(eventWatch.watch(create(WatchEventsRequestSchema, request), aCall())),
  );
  const [late, ...others] = watchers;
  await Promise.all(watchers.map((each) => each.next()));
  const conversions: (() => number)[] = [];
  const told = [];
  for (const name of ["a", "b"]) {
    const next = others.map((each) => each.next());
    log.append([created, aService({ name })]);
    conversions.push(countedReads(log.events.at(-1), "message"));
    told.push(...(await Promise.all(next)));
  }

  const both = await late?.next();
  const responses = [...told, both].flatMap((each) => each?.value ?? []);
  const received = responses.map(decoded);
  await Promise.all(watchers.map((each) => each.return(undefined)));

  expect(conversions.map((count) => count())).toEqual([1, 1]);
  expect(received.map(namesIn)).toEqual([...others.map(() => ["a"]), ...others.map(() => ["b"]), ["a", "b"]]);
  expect(received).toEqual(responses.map(({ message }) => message));
});

/** Counts how often a property is read. */
function countedReads(event: Event | undefined, property: keyof Event): () => number {
  if (event === undefined) throw new Error("there is no event");
  const value = event[property];
  let count = 0;
  const get = () => {
    count += 1;
    return value;
  };
  Object.defineProperty(event, property, { get, enumerable: false });
  return () => count;
}

async function appended(body: EventBody, name: string): Promise<void> {
  await feed.reached(log.append([body, aService({ name })]), AbortSignal.timeout(5_000));
}

async function* watch(
  request: MessageInitShape<typeof WatchEventsRequestSchema> = {},
  scopes?: string[],
): AsyncGenerator<WatchEventsResponse, void, undefined> {
  const eventWatch = new EventWatch({ feed, clock: systemClock });
  const responses = pumped(eventWatch.watch(create(WatchEventsRequestSchema, request), aCall(scopes)));
  for await (const response of responses) {
    expect(decoded(response)).toEqual(response.message);
    yield response.message;
  }
}

async function take(
  told: AsyncGenerator<WatchEventsResponse, void, undefined>,
  count: number,
  { keep = false } = {},
): Promise<WatchEventsResponse[]> {
  const taken: WatchEventsResponse[] = [];
  while (taken.length < count) {
    const { value, done } = await told.next();
    if (done === true) break;
    taken.push(value);
  }
  if (!keep) await told.return();
  return taken;
}

function namesIn(response: WatchEventsResponse | undefined): string[] {
  return response?.message.case === "batch" ? response.message.value.events.map(({ service }) => service) : [];
}

function intervalOf(response: WatchEventsResponse | undefined): number {
  return response?.message.case === "opened" ? Number(response.message.value.progressIntervalMs) : Number.NaN;
}

/** What a client gets. */
function decoded(response: Shared<typeof WatchEventsResponseSchema>): WatchEventsResponse {
  return fromBinary(WatchEventsResponseSchema, response.frame(binaryCodec).subarray(envelopeBytes));
}
