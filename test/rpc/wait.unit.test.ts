import { setImmediate } from "node:timers/promises";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Clock, systemClock } from "../../src/domain/clock.ts";
import { serviceNotFound } from "../../src/domain/errors.ts";
import type { EventBody } from "../../src/domain/event.ts";
import type { Service } from "../../src/domain/service.ts";
import { parseServiceSpec } from "../../src/domain/service-spec.ts";
import { endedStates, type ServiceState } from "../../src/domain/status.ts";
import type { Feed } from "../../src/events/feed.ts";
import { serviceStates } from "../../src/rpc/convert-service.ts";
import { Waiting } from "../../src/rpc/wait.ts";
import { judge, type WaitCondition } from "../../src/rpc/wait-condition.ts";
import { aRoute, aService, aStatus } from "./arbitrary.ts";
import { MemoryLog } from "./memory-log.ts";

const created: EventBody = { type: "service_created" };
const ready: EventBody = { type: "instance_ready", instanceId: "i", pid: 1 };
const deleted: EventBody = { type: "service_deleted" };
const rules = { routed: true };

describe("a service is ready when", () => {
  const web = aService({ name: "web" });
  const withUrl = (service: Partial<Service>) =>
    aService({
      name: "web",
      spec: { ...web.spec, url: "http://127.0.0.1:0" },
      status: aStatus({ published: true, url: aRoute().target }),
      ...service,
    });

  test.each([
    { when: "its process is", service: web, verdict: "holds" },
    {
      when: "not while it starts",
      service: aService({ name: "web", status: aStatus({ state: "starting", ready: false }) }),
      verdict: "not_yet",
    },
    {
      when: "not while an older generation is what runs",
      service: aService({ name: "web", generation: 2 }),
      verdict: "not_yet",
    },
    {
      when: "not before its route is in place",
      service: withUrl({ route: aRoute({ state: "pending" }) }),
      verdict: "not_yet",
    },
    {
      when: "not while the proxy has an older route",
      service: withUrl({ route: aRoute({ generation: 2 }) }),
      verdict: "not_yet",
    },
    { when: "not without its route", service: withUrl({}), verdict: "not_yet" },
    {
      when: "not while its route still leads to the process before",
      service: withUrl({ route: aRoute({ target: "http://127.0.0.1:20001" }) }),
      verdict: "not_yet",
    },
    { when: "its route is in place too", service: withUrl({ route: aRoute() }), verdict: "holds" },
    {
      when: "not any more once it failed",
      service: aService({ name: "web", status: aStatus({ state: "failed" }) }),
      verdict: "hopeless",
    },
    {
      when: "it may be again, if a new generation is on its way",
      service: aService({ name: "web", generation: 2, status: aStatus({ state: "failed" }) }),
      verdict: "not_yet",
    },
    {
      when: "not while it is wished stopped",
      service: aService({ name: "web", wish: "stopped" }),
      verdict: "hopeless",
    },
    { when: "not while it is being deleted", service: aService({ name: "web", wish: "deleted" }), verdict: "hopeless" },
    { when: "not once it is gone", service: undefined, verdict: "hopeless" },
  ])("$when", ({ service, verdict }) => {
    expect(judge("ready", service, rules)).toBe(verdict);
  });

  test("there is no proxy to put its route into, and its process is", () => {
    expect(judge("ready", withUrl({}), { routed: false })).toBe("holds");
  });

  test("somebody else runs it and its route is in place", () => {
    const { spec } = parseServiceSpec(
      "ext",
      { kind: { type: "external" }, url: "http://10.0.0.1:80" },
      { forbidden: [], field: "" },
    );
    const external = aService({ name: "ext", spec, status: aStatus({ state: "external", ready: false }) });

    expect(judge("ready", external, rules)).toBe("not_yet");
    expect(judge("ready", { ...external, route: aRoute() }, rules)).toBe("not_yet");
    expect(judge("ready", { ...external, route: aRoute({ target: spec.url ?? "" }) }, rules)).toBe("holds");
    expect(judge("stopped", external, rules)).toBe("hopeless");
  });
});

test("a service is stopped when nothing runs and its route is out", () => {
  const stopped = aService({ name: "web", wish: "stopped", status: aStatus({ state: "stopped", ready: false }) });

  expect(judge("stopped", stopped, rules)).toBe("holds");
  expect(judge("stopped", { ...stopped, route: aRoute({ state: "removing" }) }, rules)).toBe("not_yet");
  expect(judge("stopped", aService({ name: "web", wish: "stopped" }), rules)).toBe("not_yet");
});

test("whatever its state, a service is never ended while a process of it may run or is on its way", () => {
  const states = Object.keys(serviceStates) as ServiceState[];
  fc.assert(
    fc.property(
      fc.constantFrom(...states),
      fc.integer({ min: 0, max: 2 }),
      fc.constantFrom("running", "stopped"),
      (state, observedGeneration, wish) => {
        const service = aService({ name: "web", generation: 2, wish, status: aStatus({ state, observedGeneration }) });
        if (judge("ended", service, rules) !== "holds") return;
        expect(endedStates.has(state)).toBe(true);
        expect(wish === "stopped" || observedGeneration === 2).toBe(true);
      },
    ),
  );
});

describe("waiting", () => {
  let log: MemoryLog;
  let feed: Feed;

  beforeEach(async () => {
    log = new MemoryLog();
    feed = log.feed();
    await feed.start();
  });

  afterEach(() => feed.stop());

  test("ends at once if the condition holds already", async () => {
    log.append([created, aService({ name: "web" })]);

    expect(await wait("ready")).toMatchObject({ revision: 1n, service: { name: "web" } });
  });

  test("ends with the first revision at which the condition holds, also if it no longer does afterwards", async () => {
    log.append([created, starting()]);
    const waiting = wait("ready");
    await Promise.resolve();
    log.append([ready, aService({ name: "web" })]);
    log.append([created, starting()]);

    expect(await waiting).toMatchObject({ revision: 2n, service: { status: { state: "running" } } });
  });

  test("looks at nothing before the revision that it is to wait for", async () => {
    log.append([created, aService({ name: "web" })]);
    const waiting = wait("ready", { minRevision: 2n });
    log.append([created, starting()]);
    log.append([ready, aService({ name: "web" })]);

    expect((await waiting).revision).toBe(3n);
  });

  test("for a deletion ends when the service is gone, and at once if there is none", async () => {
    log.append([created, aService({ name: "web" })]);
    const waiting = wait("deleted");
    await Promise.resolve();
    log.append([deleted, aService({ name: "web" })]);

    expect(await waiting).toEqual({ service: undefined, revision: 2n });
    expect(await wait("deleted")).toEqual({ service: undefined, revision: 2n });
  });

  test("is not misled by another service of the same name", async () => {
    log.append([created, aService({ name: "web" })]);
    const waiting = wait("deleted");
    await Promise.resolve();
    log.append([deleted, aService({ name: "web" })]);
    log.append([created, aService({ name: "web", uid: "another" })]);

    expect((await waiting).revision).toBe(2n);
  });

  test("for readiness fails as soon as the service failed, and tells why", async () => {
    log.append([created, starting()]);
    const waiting = wait("ready");
    await Promise.resolve();
    log.append([
      { type: "service_failed" },
      aService({ name: "web", status: aStatus({ state: "failed", reason: "EXITED" }) }),
    ]);

    await expect(waiting).rejects.toMatchObject({
      code: "failed_precondition",
      reason: "WAIT_HOPELESS",
      metadata: { state: "failed", reason: "EXITED", service: "web" },
    });
  });

  test("for readiness fails when the service is deleted meanwhile", async () => {
    log.append([created, starting()]);
    const waiting = wait("ready");
    await Promise.resolve();
    log.append([deleted, starting()]);

    await expect(waiting).rejects.toMatchObject({ code: "not_found" });
  });

  test("ends with the time, and tells how far the service came", async () => {
    log.append([created, starting()]);

    await expect(wait("ready", { timeoutMs: 20 })).rejects.toMatchObject({
      code: "deadline_exceeded",
      reason: "WAIT_TIMEOUT",
      metadata: { state: "starting", condition: "ready" },
    });
    await expect(wait("ready", { timeoutMs: 20, minRevision: 9n })).rejects.toMatchObject({ reason: "WAIT_TIMEOUT" });
  });

  test("leaves no timer behind, however it ends", async () => {
    let open = 0;
    const clock: Clock = {
      ...systemClock,
      after: (delayMs, run) => {
        open++;
        const cancel = systemClock.after(delayMs, run);
        return () => (open--, cancel());
      },
    };
    log.append([created, aService({ name: "web" })]);

    await wait("ready", { clock });
    await wait("ready", { clock, name: "missing" }).catch(() => undefined);

    expect(open).toBe(0);
  });

  test("ends with the word to come back when the server stops, also one that comes after", async () => {
    log.append([created, starting()]);
    const waiting = waitingOn(systemClock);
    const request = { name: "web", condition: "ready", minRevision: 0n, timeoutMs: 60_000 } as const;
    const { signal } = new AbortController();
    const waits = [waiting.until({ ...request, signal })];
    await setImmediate();

    waiting.stop();
    waits.push(waiting.until({ ...request, signal }));

    const refused = { status: "rejected", reason: { reason: "SERVER_DRAINING", retryAfterMs: 1_000 } };
    expect(await Promise.allSettled(waits)).toMatchObject([refused, refused]);
  });

  function wait(
    condition: WaitCondition,
    o: { name?: string; minRevision?: bigint; timeoutMs?: number; clock?: Clock } = {},
  ): ReturnType<Waiting["until"]> {
    const { name = "web", minRevision = 0n, timeoutMs = 5_000, clock = systemClock } = o;
    const { signal } = new AbortController();
    return waitingOn(clock).until({ name, condition, minRevision, timeoutMs, signal });
  }

  function waitingOn(clock: Clock): Waiting {
    const registry = {
      get: async (wanted: string) => {
        const found = await log.get(wanted);
        if (found === undefined) throw serviceNotFound(wanted);
        return found;
      },
    };
    return new Waiting({ feed, registry, clock, rules });
  }
});

function starting(): Service {
  return aService({ name: "web", status: aStatus({ state: "starting", ready: false }) });
}
