import { afterEach, beforeEach, expect, test } from "vitest";
import type { ProbeResult } from "../../../src/domain/explain.ts";
import type { Probe, ProbeAction } from "../../../src/domain/probe.ts";
import { type Answer, no, type Question, unasked, yes } from "../../../src/supervisor/probes/question.ts";
import { type News, type WatchPlan, watchInstance } from "../../../src/supervisor/probes/watch-instance.ts";
import { ManualClock } from "../../support/manual-clock.ts";

let clock: ManualClock;
let stopping: AbortController;
let watching: Promise<void>;
let told: string[];
let messages: string[];
let results: ProbeResult[];
/** Of each question the times at which it was asked. */
let asked: Record<string, number[]>;

beforeEach(() => {
  clock = new ManualClock();
  stopping = new AbortController();
  [watching, told, messages, results, asked] = [Promise.resolve(), [], [], [], {}];
});
afterEach(async () => {
  stopping.abort();
  // What is in flight comes to its end.
  await clock.advance(60_000);
  await watching;
});

/** Answers a question by its name, which stands in the path of the action. */
type Answers = (name: string, times: number, timeoutMs: number) => Answer | Promise<Answer>;

function watch(plan: Partial<WatchPlan>, answers: Answers = () => yes("fine")): void {
  const whole: WatchPlan = {
    url: undefined,
    path: "ready",
    startupProbe: undefined,
    readinessProbe: undefined,
    livenessProbe: undefined,
    readinessTimeoutMs: 30_000,
    minReadyMs: 1_000,
    wasReady: false,
    ...plan,
  };
  watching = watchInstance(whole, {
    questionOf: (action) => questionOf(action, answers),
    clock,
    signal: stopping.signal,
    tell: (news) => note(news),
    note: (result) => results.push(result),
  });
}

function note(news: News): void {
  told.push(news.kind);
  messages.push("message" in news ? news.message : "");
}

function questionOf(action: ProbeAction, answers: Answers): Question {
  const name = action.kind === "http" ? (action.path ?? "ready") : action.kind;
  const times = (asked[name] ??= []);
  return {
    subject: name,
    ask: async (signal, timeoutMs) => {
      signal.throwIfAborted();
      times.push(clock.monotonicMs());
      return answers(name, times.length, timeoutMs);
    },
  };
}

function probe(path: string, more: Partial<Probe> = {}): Probe {
  const action = { kind: "http", path, port: undefined } as const;
  return { action, periodMs: 10_000, timeoutMs: 2_000, failureThreshold: 3, successThreshold: 1, ...more };
}

test("without a url and a probe it is ready once it has been up for long enough, and stays so", async () => {
  watch({ minReadyMs: 1_000 });

  await clock.advance(999);
  expect(told).toEqual([]);
  await clock.advance(600_000);
  expect(told).toEqual(["ready"]);
});

test("a start is asked at once, then after 0.2 s growing to the period", async () => {
  watch({ startupProbe: probe("start", { periodMs: 1_000 }) }, (_, times) => (times < 6 ? no("not yet") : yes("fine")));

  await clock.advance(10_000);

  expect(asked["start"]).toEqual([0, 200, 600, 1_400, 2_400, 3_400]);
  expect(told).toEqual(["ready"]);
});

test("with a url alone it is asked after 0.2 s growing to 5 s, afterwards every 10 s", async () => {
  watch({ url: "http://127.0.0.1:1" }, (_, times) => (times < 8 ? no("not yet") : yes("fine")));

  await clock.advance(40_000);

  expect(asked["ready"]).toEqual([0, 200, 600, 1_400, 3_000, 6_200, 11_200, 16_200, 26_200, 36_200]);
});

test("a start that does not succeed in time is told, with its last problem, and nothing more is asked", async () => {
  watch({ startupProbe: probe("start"), readinessTimeoutMs: 3_000 }, () => no("it answers 503"));

  await clock.advance(60_000);

  expect(told).toEqual(["readiness_missed"]);
  expect(messages).toEqual(["start did not succeed within 3 s: it answers 503"]);
  expect(asked["start"]).toEqual([0, 200, 600, 1_400, 2_500]);
});

test("a question of a start gets no more than the time that is left", async () => {
  const limits: number[] = [];
  watch({ startupProbe: probe("start"), readinessTimeoutMs: 1_000 }, async (_, __, timeoutMs) => {
    limits.push(timeoutMs);
    await new Promise<void>((resolve) => clock.after(timeoutMs, resolve));
    return no("silence");
  });

  await clock.advance(5_000);

  expect(limits).toEqual([1_000]);
  expect(told).toEqual(["readiness_missed"]);
});

test("with a startup and a readiness probe it is ready when both have passed", async () => {
  watch({ startupProbe: probe("start"), readinessProbe: probe("ready") }, (name) =>
    clock.monotonicMs() < (name === "start" ? 500 : 2_000) ? no("not yet") : yes("fine"),
  );

  await clock.advance(600);
  expect(told).toEqual([]);
  expect(asked["ready"]).toEqual([600]);
  await clock.advance(10_000);
  expect(told[0]).toBe("ready");
});

test("what has started and does not become ready is unready, never missed, and becomes ready later", async () => {
  let isReady = false;
  watch({ startupProbe: probe("start"), readinessProbe: probe("ready"), readinessTimeoutMs: 5_000 }, (name) =>
    name === "start" || isReady ? yes("fine") : no("the database is away"),
  );

  await clock.advance(600_000);
  expect(told[0]).toBe("unready");
  expect(messages[0]).toBe("ready does not succeed: the database is away");
  isReady = true;
  await clock.advance(10_000);
  expect(told.at(-1)).toBe("ready");
  expect(told).not.toContain("readiness_missed");
});

test("it is unready after so many failures in a row, told once, and ready after so many successes", async () => {
  const script = "y n n y n n n n y y n n n y y".split(" ");
  watch({ readinessProbe: probe("ready", { failureThreshold: 3, successThreshold: 2 }), wasReady: true }, (_, times) =>
    script[times - 1] === "n" ? no("busy") : yes("fine"),
  );
  const after: string[] = [];
  for (const _ of script) {
    await clock.advance(10_000);
    after.push(told.at(-1) ?? "-");
  }

  expect(after.join(" ")).toBe("- - - - - - unready unready unready ready ready ready unready unready ready");
  expect(told.filter((kind) => kind === "unready")).toHaveLength(2);
  expect(messages[0]).toBe("ready failed 3 times in a row: busy");
});

test("readiness never ends a process, however long it fails", async () => {
  watch({ readinessProbe: probe("ready") }, (_, times) => (times === 1 ? yes("fine") : no("busy")));

  await clock.advance(3_600_000);

  expect(told).toEqual(["ready", "unready"]);
});

test("liveness is not asked before the start has passed, and is told when it fails so often", async () => {
  watch({ startupProbe: probe("start"), livenessProbe: probe("live", { failureThreshold: 6 }) }, (name) =>
    name === "start" && clock.monotonicMs() < 20_000 ? no("loading") : name === "start" ? yes("fine") : no("stuck"),
  );

  await clock.advance(19_000);
  expect(asked["live"]).toEqual([]);
  await clock.advance(62_000);
  expect(told).toEqual(["ready"]);
  await clock.advance(60_000);
  expect(told).toEqual(["ready", "liveness_failed"]);
  expect(messages[1]).toBe("live failed 6 times in a row: stuck");
});

test("the liveness of one that has started and never gets ready counts, too", async () => {
  watch({ startupProbe: probe("start"), readinessProbe: probe("ready"), livenessProbe: probe("live") }, (name) =>
    name === "start" ? yes("fine") : no("stuck"),
  );

  await clock.advance(31_000);

  expect(told).toContain("liveness_failed");
});

test("the failures of an instance are not counted against the next", async () => {
  const plan = { livenessProbe: probe("live", { failureThreshold: 3 }), wasReady: true };
  watch(plan, () => no("stuck"));
  await clock.advance(25_000);
  expect(told).toEqual(["ready"]);
  stopping.abort();
  await watching;
  stopping = new AbortController();
  watch({ ...plan, wasReady: false, minReadyMs: 0 }, () => no("stuck"));

  await clock.advance(25_000);

  expect(told).toEqual(["ready", "ready"]);
});

test("what was ready when it was taken over misses nothing", async () => {
  watch({ url: "http://127.0.0.1:1", wasReady: true, readinessTimeoutMs: 1_000 }, () => no("away"));

  await clock.advance(29_000);
  expect(told).toEqual([]);
  await clock.advance(1_000);
  expect(told).toEqual(["unready"]);
});

test("one question is in flight, however long it takes", async () => {
  let inFlight = 0;
  let most = 0;
  watch({ readinessProbe: probe("ready", { periodMs: 100, timeoutMs: 60_000 }), wasReady: true }, async () => {
    most = Math.max(most, ++inFlight);
    await new Promise<void>((resolve) => clock.after(30_000, resolve));
    inFlight--;
    return yes("fine");
  });

  await clock.advance(100_000);

  expect(most).toBe(1);
  expect(asked["ready"]).toEqual([100, 30_200, 60_300, 90_400]);
});

test("failures while Steward itself stood still are not counted, successes are", async () => {
  watch({ livenessProbe: probe("live", { failureThreshold: 1 }), wasReady: true }, (_, times) => {
    clock.freeze(5_000);
    return times === 3 ? yes("fine") : no("no answer within 2000 ms");
  });

  await clock.advance(100_000);

  expect(told).toEqual(["ready"]);
  expect(results).toEqual([expect.objectContaining({ role: "liveness", success: true })]);
});

test("a start has its whole time although Steward stood still meanwhile", async () => {
  watch({ startupProbe: probe("start"), readinessTimeoutMs: 3_000 }, (_, times) => {
    if (times === 2) clock.freeze(60_000);
    return times < 5 ? no("not yet") : yes("fine");
  });

  await clock.advance(70_000);

  expect(told).toEqual(["ready"]);
});

test("a question that cannot be asked says nothing of the service", async () => {
  watch({ livenessProbe: probe("live", { failureThreshold: 1 }), wasReady: true }, () =>
    unasked("no more descriptors"),
  );

  await clock.advance(100_000);

  expect(told).toEqual(["ready"]);
  expect(results[0]).toMatchObject({ success: false, message: "no more descriptors" });
});

test("what a process tells by itself is waited for, and not asked again", async () => {
  const action = { kind: "notify", fd: 7 } as const;
  const limits: number[] = [];
  watch({ readinessProbe: { ...probe(""), action }, readinessTimeoutMs: 20_000 }, async (_, __, timeoutMs) => {
    limits.push(timeoutMs);
    await new Promise<void>((resolve) => clock.after(15_000, resolve));
    return yes("it said that it is ready");
  });

  await clock.advance(600_000);

  expect(limits).toEqual([20_000]);
  expect(told).toEqual(["ready"]);
});

test("each answer is noted with its role, time and duration", async () => {
  watch({ readinessProbe: probe("ready") }, async () => {
    await new Promise<void>((resolve) => clock.after(40, resolve));
    return no("busy");
  });

  await clock.advance(50);

  expect(results).toEqual([{ role: "readiness", success: false, message: "busy", time: new Date(40), durationMs: 40 }]);
});
