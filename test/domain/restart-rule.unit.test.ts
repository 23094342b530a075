import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { backOffMs, type Judgement, judgeEnd } from "../../src/domain/restart-rule.ts";
import { defaultRestartPolicy, type RestartPolicy } from "../../src/domain/service.ts";
import { blankStatus, type ServiceStatus } from "../../src/domain/status.ts";

type Past = Pick<ServiceStatus, "failures" | "recentFailures" | "readyTime">;

const start = new Date("2026-01-01T00:00:00Z").getTime();
const at = (ms: number) => new Date(start + ms);

const unblemished: ServiceStatus = {
  ...blankStatus,
  state: "running",
  ready: true,
  observedGeneration: 1,
  instanceId: "i",
  pid: 7,
  startTime: at(0),
  transitionTime: at(0),
};

function judge(
  past: Partial<Past>,
  { atMs = 0, random = 0, code = 1, policy = {} as Partial<RestartPolicy>, wasGivenUp = false } = {},
): Judgement {
  const ending = { exit: { reason: "exited", code }, wasGivenUp, now: at(atMs), random } as const;
  return judgeEnd({ ...unblemished, ...past }, ending, { ...defaultRestartPolicy, ...policy });
}

function delayOf(judgement: Judgement): number | undefined {
  return judgement.kind === "restart" ? judgement.delayMs : undefined;
}

/** Ends that follow each other at these times, none of them ready in between. */
function judgeRow(times: readonly number[]): (Judgement & { kind: "restart" })[] {
  let past: Past = { failures: 0, recentFailures: [], readyTime: undefined };
  return times.map((atMs) => {
    const judgement = judge(past, { atMs });
    if (judgement.kind !== "restart") throw new Error("it was given up");
    past = { ...past, failures: judgement.failures, recentFailures: judgement.recentFailures };
    return judgement;
  });
}

describe("a service that ends", () => {
  test("is restarted at once if it had been ready for ten seconds, else after the first delay", () => {
    expect(delayOf(judge({ readyTime: at(0) }, { atMs: 10_000 }))).toBe(0);
    expect(delayOf(judge({ readyTime: at(0) }, { atMs: 9_999 }))).toBe(1_000);
    expect(delayOf(judge({}, { atMs: 3_600_000 }))).toBe(1_000);
  });

  test("is restarted at once only the first time in a row", () => {
    expect(delayOf(judge({ failures: 1, readyTime: at(0) }, { atMs: 10_000 }))).toBe(2_000);
  });

  test("waits one, two, four seconds and so on up to a minute", () => {
    const row = judgeRow([1, 2, 3, 4, 5, 6, 7, 8, 9]);

    expect(row.map(delayOf)).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
  });

  test("begins anew after two minutes of readiness", () => {
    const judgement = judge({ failures: 9, readyTime: at(0) }, { atMs: 120_000 });

    expect(judgement).toMatchObject({ failures: 1, delayMs: 0 });
  });

  test("is completed by code 0 unless it always runs, but not if it had missed its readiness", () => {
    expect(judge({}, { code: 0, policy: { mode: "on_failure" } }).kind).toBe("complete");
    expect(judge({}, { code: 0, policy: { mode: "never" } }).kind).toBe("complete");
    expect(judge({}, { code: 0 }).kind).toBe("restart");
    expect(judge({}, { code: 0, policy: { mode: "on_failure" }, wasGivenUp: true }).kind).toBe("restart");
  });

  test("is given up after its restarts in a row are used up", () => {
    const policy = { maxRestarts: 3 };

    expect(judge({ failures: 2 }, { policy }).kind).toBe("restart");
    expect(judge({ failures: 3 }, { policy })).toEqual({ kind: "give_up", reason: "MAX_RESTARTS", failures: 4 });
    expect(judge({ failures: 3, readyTime: at(0) }, { policy, atMs: 120_000 }).kind).toBe("restart");
    expect(judge({}, { policy: { maxRestarts: 0 } }).kind).toBe("give_up");
  });

  test("is in a crash loop from the fifth end within five minutes", () => {
    const loop = judgeRow([0, 1, 2, 3, 299_999]);
    const slow = judgeRow([0, 1, 2, 3, 300_000]);

    expect(loop.map(({ inCrashLoop }) => inCrashLoop)).toEqual([false, false, false, false, true]);
    expect(slow.at(-1)?.inCrashLoop).toBe(false);
  });

  test("stays in its crash loop although the delays leave fewer than five ends in the window, and enters it once", () => {
    const row = judgeRow([0, 1, 2, 3, 4, 75_000, 150_000, 225_000, 300_000, 375_000, 450_000]);

    expect(row.slice(4).every(({ inCrashLoop }) => inCrashLoop)).toBe(true);
    expect(row.filter(({ entersCrashLoop }) => entersCrashLoop)).toHaveLength(1);
    expect(row[4]?.entersCrashLoop).toBe(true);
  });

  test("leaves its crash loop after a long enough readiness", () => {
    const recentFailures = [at(0), at(1), at(2), at(3), at(4)];

    const judgement = judge({ failures: 9, recentFailures, readyTime: at(200_000) }, { atMs: 400_000 });

    expect(judgement).toMatchObject({ inCrashLoop: false, failures: 1 });
  });
});

describe("whatever the policy", () => {
  const policy = fc
    .record({
      baseDelayMs: fc.integer({ min: 100, max: 300_000 }),
      cap: fc.integer({ min: 1_000, max: 3_600_000 }),
      multiplier: fc.double({ min: 1, max: 10, noNaN: true }),
    })
    .map(({ baseDelayMs, cap, multiplier }) => ({ baseDelayMs, maxDelayMs: Math.max(cap, baseDelayMs), multiplier }));

  test("the back-off never falls within a row", () => {
    fc.assert(
      fc.property(policy, fc.integer({ min: 1, max: 2_000 }), (delays, failures) => {
        expect(backOffMs(failures + 1, delays)).toBeGreaterThanOrEqual(backOffMs(failures, delays));
      }),
    );
  });

  test("a delay is at least its back-off, and exceeds neither that nor the cap by more than a quarter", () => {
    fc.assert(
      fc.property(policy, fc.nat(2_000), fc.double({ min: 0, max: 1, noNaN: true }), (delays, failures, random) => {
        const delay = delayOf(judge({ failures }, { policy: delays, random })) ?? -1;

        expect(delay).toBeGreaterThanOrEqual(backOffMs(failures + 1, delays));
        expect(delay).toBeLessThanOrEqual(backOffMs(failures + 1, delays) * 1.25);
        expect(delay).toBeLessThanOrEqual(delays.maxDelayMs * 1.25);
      }),
    );
  });
});
