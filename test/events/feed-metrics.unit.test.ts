import { Registry } from "prom-client";
import { afterEach, expect, test } from "vitest";
import { Feed } from "../../src/events/feed.ts";
import { MemoryLog, storeUid } from "../rpc/memory-log.ts";
import { eventually } from "../support/eventually.ts";

const proxyUp = [{ type: "proxy_up" }] as const;
const feeds: Feed[] = [];

afterEach(async () => {
  for (const feed of feeds.splice(0)) await feed.stop();
});

async function startFeed({ ringSize = 1_000 } = {}) {
  const log = new MemoryLog();
  const registry = new Registry();
  const failures: unknown[] = [];
  const feed = new Feed(log, { storeUid, registry, ringSize, onFailure: (error) => failures.push(error) });
  feeds.push(feed);
  await feed.start();
  const value = async (name: string, labels: Readonly<Record<string, string>> = {}) => {
    const { values = [] } = (await registry.getSingleMetric(`steward_feed_${name}`)?.get()) ?? {};
    const sample = values.find((each) => Object.entries(labels).every(([label, of]) => each.labels[label] === of));
    return sample?.value;
  };
  const append = async (count: number) => {
    for (let index = 0; index < count; index++) log.append(proxyUp);
    await feed.reached(log.head, AbortSignal.timeout(10_000));
  };
  return { log, feed, value, append };
}

function follow(feed: Feed, follower: string, { after = 0n, signal = new AbortController().signal } = {}) {
  return feed.follow({ after: { storeUid, revision: after }, follower, signal });
}

test("what was read is counted by type and kept in memory, up to the newest revision", async () => {
  const { value, append } = await startFeed({ ringSize: 100 });

  await append(90);

  expect(await value("revision")).toBe(90);
  expect(await value("events_total", { type: "proxy_up" })).toBe(90);
  expect(await value("ring_events")).toBe(90);
  expect(await value("ring_bytes")).toBeGreaterThan(90 * 50);
  expect(await value("wakeup_seconds", { le: "+Inf" })).toBeGreaterThan(0);
  await append(900);
  expect(await value("events_total", { type: "proxy_up" })).toBe(990);
  expect(await value("ring_events")).toBeLessThanOrEqual(125);
});

test("a follower counts while it follows, with what it was handed and how far it is behind", async () => {
  const { feed, value, append } = await startFeed();
  await append(3);
  const quick = follow(feed, "watch_events");
  const slow = follow(feed, "watch_services", { after: 1n });
  await quick.next();
  await slow.next();
  const watchers = (follower: string) => value("followers", { follower });
  expect(await watchers("watch_events")).toBe(1);

  await quick.next();
  await slow.next();
  await append(7);
  await quick.next();

  expect([await watchers("watch_events"), await watchers("watch_services")]).toEqual([1, 1]);
  expect(await value("delivered_events_total", { follower: "watch_events" })).toBe(10);
  expect(await value("delivered_events_total", { follower: "watch_services" })).toBe(2);
  expect(await value("lag_revisions", { follower: "watch_events" })).toBe(0);
  expect(await value("lag_revisions", { follower: "watch_services" })).toBe(7);
  await quick.return();
  await slow.return();
  expect([await watchers("watch_events"), await watchers("watch_services")]).toEqual([0, 0]);
  expect(await value("lag_revisions", { follower: "watch_services" })).toBe(0);
});

test("a follower that is parked counts no more once its signal aborts", async () => {
  const { feed, value, append } = await startFeed();
  await append(1);
  const leaving = new AbortController();
  const parked = follow(feed, "watch_events", { signal: leaving.signal });
  await parked.next();
  await parked.next();
  expect(await value("followers", { follower: "watch_events" })).toBe(1);

  leaving.abort();

  expect(await value("followers", { follower: "watch_events" })).toBe(0);
});

test("who is behind what is kept in memory is behind until it has caught up, and each read for it counts", async () => {
  const { feed, value, append } = await startFeed({ ringSize: 100 });
  await append(1_000);
  const late = follow(feed, "watch_events");
  await late.next();

  await late.next();

  expect(await value("followers_behind", { follower: "watch_events" })).toBe(1);
  expect(await value("lag_revisions", { follower: "watch_events" })).toBe(1_000 - 256);
  while ((await value("lag_revisions", { follower: "watch_events" })) !== 0) await late.next();
  expect(await value("followers_behind", { follower: "watch_events" })).toBe(0);
  expect(await value("catch_up_reads_total")).toBe(4);
  expect(await value("delivered_events_total", { follower: "watch_events" })).toBe(1_000);
});

test("a read that fails is counted", async () => {
  const { log, feed, value } = await startFeed();
  const read = log.readAfter.bind(log);
  log.readAfter = async () => Promise.reject(new Error("away"));
  log.append(proxyUp);
  await eventually(async () => ((await value("read_failures_total")) ?? 0) >= 2);

  log.readAfter = read;

  await feed.reached(1n, AbortSignal.timeout(10_000));
  expect(await value("revision")).toBe(1);
});
