import { afterEach, beforeEach, expect, test } from "vitest";
import type { Feed } from "../../src/events/feed.ts";
import { SeenRevision } from "../../src/rpc/seen-revision.ts";
import { aService } from "./arbitrary.ts";
import { MemoryLog } from "./memory-log.ts";

let log: MemoryLog;
let feed: Feed;

beforeEach(async () => {
  log = new MemoryLog();
  log.append([{ type: "service_created" }, aService({ name: "web" })]);
  feed = log.feed();
  await feed.start();
});

afterEach(async () => {
  await feed.stop();
});

test("a revision that was seen is not waited for", async () => {
  const seen = new SeenRevision({ feed, clock: clockThat(() => undefined) });

  await seen.reached(0n, { signal: AbortSignal.abort() });
  await seen.reached(1n, { signal: AbortSignal.abort() });
});

test("a revision that comes is waited for", async () => {
  const seen = new SeenRevision({ feed, clock: clockThat(() => undefined) });

  const reached = seen.reached(2n, new AbortController());
  log.append([{ type: "service_stopped" }, aService({ name: "web" })]);

  await reached;
  expect(feed.head).toBe(2n);
});

test("a revision that does not come is refused, with the one that was seen", async () => {
  const seen = new SeenRevision({ feed, clock: clockThat((run) => run()) });

  await expect(seen.reached(9n, new AbortController())).rejects.toMatchObject({
    code: "failed_precondition",
    reason: "REVISION_IN_FUTURE",
    metadata: { requested: "9", head: "1" },
  });
});

test("who hangs up waits no longer, and a server that stops says so", async () => {
  const cancelled: string[] = [];
  const seen = new SeenRevision({
    feed,
    clock: clockThat(
      () => undefined,
      () => cancelled.push("cancelled"),
    ),
  });
  const hangUp = new AbortController();
  const [gone, stopped] = [seen.reached(9n, hangUp), seen.reached(9n, new AbortController())];

  hangUp.abort(new Error("hung up"));
  await expect(gone).rejects.toThrow("hung up");
  await Promise.all([expect(stopped).rejects.toMatchObject({ reason: "SERVER_DRAINING" }), feed.stop()]);
  expect(cancelled).toHaveLength(2);
});

/** A clock whose timers do what the test says. */
function clockThat(after: (run: () => void) => void, cancel: () => void = () => undefined) {
  return {
    now: () => new Date(0),
    monotonicMs: () => 0,
    after: (_: number, run: () => void) => {
      after(run);
      return cancel;
    },
  };
}
