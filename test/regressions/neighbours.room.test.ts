import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Event } from "../../src/domain/event.ts";
import type { Service } from "../../src/domain/service.ts";
import { type OwnPlane, openPlane } from "../supervisor/own-plane.ts";
import type { Plane } from "../supervisor/plane.ts";
import { isRunning } from "../supervisor/state-directory.ts";
import { fixture } from "../supervisor/workbench.ts";
import { eventually } from "../support/eventually.ts";

/** What one service does to others. */
let own: OwnPlane;
let plane: Plane;
let gate: string;
/** Little, so that a busy machine reaches it too. */
const budget = { perSecond: 4, burst: 30 } as const;
beforeEach(async () => {
  own = await openPlane({ startBudget: budget });
  ({ plane } = own);
  gate = join(own.stateDirectory.path, "gate");
});
afterEach(() => own.clear());

const sleeps = ["sleep", "1000"] as const;
/** Answers with 503 as long as its gate is not there. */
const serves = () => [process.execPath, fixture("web-service.mjs"), gate];
const picked = { url: "http://127.0.0.1:0" } as const;
const isReady = ({ status }: Service) => status.state === "running" && status.ready;
const startsIn = (events: readonly Event[]) => events.filter(({ body }) => body.type === "instance_starting");

test("a storm of services that fail at once is bounded by the budget, and another starts before them", async () => {
  const names = Array.from({ length: 50 }, (_, index) => `bad-${index}`);
  const fail = { restart: { baseDelayMs: 20, maxDelayMs: 50 } } as const;
  const startMs = performance.now();
  await Promise.all(names.map((name) => plane.create(name, ["false"], fail)));
  await eventually(
    async () => {
      const services = await Promise.all(names.map((name) => plane.service(name)));
      return services.every(({ status }) => status.failures > 0) && plane.supervisor.queuedStarts > 30;
    },
    { timeoutMs: 40_000, everyMs: 100 },
  );

  await plane.create("web", sleeps);
  await plane.happened("web", "instance_starting");

  const elapsedMs = performance.now() - startMs;
  const all = await plane.store.events.readAfter(0n, 100_000);
  const mine = (type: Event["body"]["type"]) =>
    all.findIndex(({ service, body }) => service?.name === "web" && body.type === type);
  const inFront = startsIn(all.slice(mine("service_created"), mine("instance_starting")));
  // First come, first served would have been thirty and more.
  expect(inFront.length).toBeLessThan(15);
  expect(startsIn(all).length).toBeLessThanOrEqual(budget.burst + (budget.perSecond * elapsedMs) / 1_000);
});

describe("a service that is slow to become ready", () => {
  test("holds up no other", async () => {
    await plane.create("slow", serves(), picked);
    await plane.happened("slow", "instance_started");

    await plane.create("web", sleeps);
    await plane.until("web", "running");

    expect((await plane.service("slow")).status).toMatchObject({ state: "starting", ready: false });
  });

  test("does not hold up the next server either, and keeps its process", async () => {
    await plane.create("slow", serves(), picked);
    await plane.create("web", sleeps);
    await plane.happened("slow", "instance_started");
    await plane.until("web", "running");
    const { pid } = (await plane.service("slow")).status;

    await plane.letGo();
    await plane.supervise();
    await plane.happened("web", "instance_adopted");
    await plane.create("later", sleeps);
    await plane.until("later", "running");

    const { status } = await plane.service("slow");
    expect(status).toMatchObject({ state: "starting", ready: false, pid });
    expect(isRunning(pid ?? 0)).toBe(true);
    writeFileSync(gate, "");
    expect((await plane.until("slow", isReady)).status.pid).toBe(pid);
  });

  test("is started again when its time is over, not ended for good, and is ready once it answers", async () => {
    await plane.create("slow", serves(), { ...picked, readinessTimeoutMs: 1_000 });
    await plane.happened("slow", "instance_exited", 2);

    writeFileSync(gate, "");
    const { status } = await plane.until("slow", isReady);

    expect(status.restarts).toBeGreaterThanOrEqual(2);
    expect(status.published).toBe(true);
  });
});

describe("while its dependency is away for a moment", () => {
  const dependsOn = [{ service: "base", condition: "ready" }] as const;
  /** The dependency has crashed and does not answer yet. */
  const takeAway = async () => {
    const { status } = await plane.until("base", isReady);
    rmSync(gate);
    process.kill(status.pid ?? 0, "SIGKILL");
    await plane.until("base", (now) => now.status.restarts === 1 && !now.status.ready);
  };

  test("a dependent that is to start waits, is not skipped, and starts when it is back", async () => {
    writeFileSync(gate, "");
    await plane.create("base", serves(), picked);
    await takeAway();
    await plane.create("web", sleeps, { dependsOn });
    await plane.happened("web", "service_waiting");
    expect(await plane.typesOf("web")).not.toContain("instance_starting");

    writeFileSync(gate, "");
    await plane.until("web", "running");

    expect(await plane.happened("web", "instance_starting")).toHaveLength(1);
  });

  test("a dependent that runs goes on, and one that crashes starts again when it is back", async () => {
    writeFileSync(gate, "");
    await plane.create("base", serves(), picked);
    for (const name of ["web", "crashing"]) await plane.create(name, sleeps, { dependsOn });
    const { status: web } = await plane.until("web", "running");
    const { status: crashing } = await plane.until("crashing", "running");
    await takeAway();
    process.kill(crashing.pid ?? 0, "SIGKILL");
    await plane.until("crashing", "pending");

    writeFileSync(gate, "");
    const { status } = await plane.until("crashing", "running");

    expect(status.pid).not.toBe(crashing.pid);
    expect(await plane.happened("crashing", "instance_starting")).toHaveLength(2);
    expect((await plane.service("web")).status.pid).toBe(web.pid);
    expect(isRunning(web.pid ?? 0)).toBe(true);
  });
});
