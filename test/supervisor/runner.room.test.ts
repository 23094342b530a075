import { readdirSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Service } from "../../src/domain/service.ts";
import { eventually } from "../support/eventually.ts";
import { type OwnPlane, openPlane } from "./own-plane.ts";
import type { Plane } from "./plane.ts";
import { isRunning } from "./state-directory.ts";
import { fixture } from "./workbench.ts";

let own: OwnPlane;
let plane: Plane;
beforeEach(async () => {
  own = await openPlane();
  ({ plane } = own);
});
afterEach(() => own.clear());

const sleeps = ["sleep", "1000"] as const;
const exitsWith = (code: number) => ["sh", "-c", `exit ${code}`] as const;
const pidOf = async (name: string) => (await plane.until(name, "running")).status.pid ?? 0;

describe("as wished", () => {
  test("a service that is created runs, and what happened is told in order", async () => {
    await plane.create("web", sleeps);

    const { status } = await plane.until("web", "running");

    expect(status).toMatchObject({ ready: true, restarts: 0, failures: 0, observedGeneration: 1 });
    expect(isRunning(status.pid ?? 0)).toBe(true);
    expect(await plane.typesOf("web")).toEqual([
      "service_created",
      "instance_starting",
      "instance_started",
      "instance_ready",
    ]);
    expect(plane.failures).toEqual([]);
  });

  test("a stop ends the process, and a start brings another", async () => {
    await plane.create("web", sleeps);
    const first = await pidOf("web");

    await plane.wish("stop", "web");
    const { status } = await plane.until("web", "stopped");
    expect(status).toMatchObject({ ready: false, pid: undefined, lastExit: { signal: "SIGTERM", requested: true } });
    expect(isRunning(first)).toBe(false);

    await plane.wish("start", "web");
    const second = await pidOf("web");
    expect(second).not.toBe(first);
    expect((await plane.service("web")).status).toMatchObject({ restarts: 0, failures: 0 });
  });

  test("a restart is a new process, and no failure", async () => {
    await plane.create("web", sleeps);
    const first = await pidOf("web");

    await plane.wish("restart", "web");
    const { status } = await plane.until(
      "web",
      ({ status }) => status.state === "running" && status.observedGeneration === 2,
    );

    expect(status.pid).not.toBe(first);
    expect(status).toMatchObject({ restarts: 0, failures: 0, lastExit: { requested: true } });
    expect(isRunning(first)).toBe(false);
    expect(await plane.happened("web", "instance_starting")).toHaveLength(2);
  });

  test("restarts that come faster than they can be done end in one process of the newest generation", async () => {
    await plane.create("web", sleeps);
    await plane.until("web", "running");

    for (let count = 0; count < 10; count++) await plane.wish("restart", "web");
    const { generation, status } = await plane.until(
      "web",
      ({ generation, status }) => status.state === "running" && status.observedGeneration === generation,
    );

    expect(generation).toBe(11);
    expect(isRunning(status.pid ?? 0)).toBe(true);
    expect(own.stateDirectory.shims()).toHaveLength(1);
  });

  test("a stop beats the start and the restarts that came before it", async () => {
    await plane.create("web", sleeps);
    await plane.wish("restart", "web");
    await plane.wish("stop", "web");

    const stopped = await plane.until("web", "stopped");

    expect(stopped.wish).toBe("stopped");
    expect(own.stateDirectory.shims()).toEqual([]);
  });

  test("the end of a process and the start that follows at once are one revision", async () => {
    await plane.create("web", sleeps);
    await plane.until("web", "running");

    await plane.wish("restart", "web");
    const [, starting] = await plane.happened("web", "instance_starting", 2);

    const [exited] = await plane.happened("web", "instance_exited");
    expect(exited?.revision).toBe(starting?.revision);
  });

  test("a start that has gone to its gate and is not wanted any more leaves nothing", async () => {
    for (let round = 1; round <= 10; round++) {
      const name = `web-${round}`;
      await plane.create(name, sleeps);
      await plane.until(name, "running");
      await plane.wish("restart", name);
      await plane.happened(name, "instance_stopping");

      await plane.wish("stop", name);
      await plane.until(name, "stopped");
    }

    expect(own.stateDirectory.shims()).toEqual([]);
    await eventually(() => readdirSync(join(own.stateDirectory.path, "run")).length === 0);
  });

  test("a stop in the middle of a back-off ends it", async () => {
    await plane.create("web", exitsWith(1), { restart: { baseDelayMs: 600_000, maxDelayMs: 600_000 } });
    await plane.until("web", "backing_off");

    await plane.wish("stop", "web");

    expect((await plane.until("web", "stopped")).status.nextStartTime).toBeUndefined();
    expect(await plane.happened("web", "instance_starting")).toHaveLength(1);
  });

  test("a start in the middle of a stop waits for the end, and then starts", async () => {
    await plane.create("web", [fixture("stubborn.sh")], { stopGraceMs: 500 });
    const first = await pidOf("web");
    await eventually(async () => (await plane.output("web")) === "ready\n");
    await plane.wish("stop", "web");
    await plane.happened("web", "instance_stopping");

    await plane.wish("start", "web");
    const { status } = await plane.until("web", ({ status }) => status.state === "running" && status.pid !== first);

    expect(isRunning(status.pid ?? 0)).toBe(true);
    expect(isRunning(first)).toBe(false);
    expect(own.stateDirectory.shims()).toHaveLength(1);
  });

  test("a change that touches the process replaces it", async () => {
    await plane.create("web", sleeps);
    const first = await pidOf("web");

    await plane.update("web", sleeps, { environment: { COLOUR: "red" } });
    const { status } = await plane.until(
      "web",
      ({ status }) => status.state === "running" && status.observedGeneration === 2,
    );

    expect(status.pid).not.toBe(first);
    expect(isRunning(first)).toBe(false);
  });

  test("a change that does not touch the process leaves it alone", async () => {
    await plane.create("web", sleeps);
    const before = await plane.until("web", "running");

    await plane.update("web", sleeps, { labels: { team: "blue" }, restart: { maxRestarts: 3 }, stopGraceMs: 1_000 });
    await plane.create("later", sleeps);
    await plane.until("later", "running");

    const after = await plane.service("web");
    expect(after.spec.labels).toEqual({ team: "blue" });
    expect(after.status).toEqual(before.status);
    expect(isRunning(after.status.pid ?? 0)).toBe(true);
  });

  test("a policy that was changed meanwhile is the one that judges the end", async () => {
    await plane.create("web", sleeps);
    const pid = await pidOf("web");
    await plane.update("web", sleeps, { restart: { mode: "never" } });

    process.kill(pid, "SIGKILL");

    expect((await plane.until("web", "failed")).status.lastExit).toMatchObject({ signal: "SIGKILL" });
  });

  test("a service that is deleted leaves no process, no output and no run directory", async () => {
    const { uid } = await plane.create("web", ["sh", "-c", "echo hello; exec sleep 1000"]);
    const { status } = await plane.until("web", "running");

    await plane.remove("web");
    await plane.happened("web", "service_deleted");

    expect(isRunning(status.pid ?? 0)).toBe(false);
    await own.stateDirectory.untilGone(`logs/${uid}`);
    await own.stateDirectory.untilGone(`run/${status.instanceId}`);
  });

  test("a name can be registered again once its service is deleted", async () => {
    const first = await plane.create("web", sleeps);
    const pid = await pidOf("web");
    await plane.remove("web");
    await plane.happened("web", "service_deleted");

    const second = await plane.create("web", sleeps);

    expect(second.uid).not.toBe(first.uid);
    expect(await pidOf("web")).not.toBe(pid);
  });
});

describe("when it ends by itself", () => {
  test("it is restarted with growing pauses, and the failures are counted", async () => {
    await plane.create("web", exitsWith(3), { restart: { baseDelayMs: 50, maxDelayMs: 1_000 } });

    const scheduled = await plane.happened("web", "restart_scheduled", 3);
    const delays = scheduled.slice(0, 3).map(({ after }) => after && delayOf(after));

    expect(delays).toEqual([50, 100, 200]);
    const [exit] = await plane.happened("web", "instance_exited");
    expect(exit?.body).toMatchObject({ exit: { reason: "exited", code: 3, requested: false } });
  });

  test("no restart comes before its time", async () => {
    await plane.create("web", exitsWith(1), { restart: { baseDelayMs: 300 } });

    const [, second] = await plane.happened("web", "instance_starting", 2);
    const [scheduled] = await plane.happened("web", "restart_scheduled");

    if (scheduled?.body.type !== "restart_scheduled" || second === undefined) throw new Error("another event");
    expect(second.time.getTime()).toBeGreaterThanOrEqual(scheduled.body.nextStartTime.getTime());
  });

  test("a crash of what ran well is restarted, and counted as one", async () => {
    await plane.create("web", sleeps);
    const first = await pidOf("web");

    process.kill(first, "SIGSEGV");
    const { status } = await plane.until("web", ({ status }) => status.state === "running" && status.pid !== first);

    expect(status).toMatchObject({
      restarts: 1,
      failures: 1,
      lastExit: { reason: "signaled", signal: "SIGSEGV", requested: false },
    });
  });

  test("five ends in a row are a crash loop, which is told once and goes on trying", async () => {
    await plane.create("web", exitsWith(1), { restart: { baseDelayMs: 20, maxDelayMs: 50 } });

    await plane.happened("web", "instance_exited", 8);
    const [entered, ...others] = await plane.happened("web", "crash_loop_entered");

    expect(entered?.after?.status).toMatchObject({
      state: "crash_loop",
      reason: "CRASH_LOOP",
      failures: 5,
      ready: false,
    });
    expect(others).toEqual([]);
  });

  test("a change brings a service out of its crash loop", async () => {
    await plane.create("web", exitsWith(1), { restart: { baseDelayMs: 20, maxDelayMs: 600_000 } });
    await plane.until("web", "crash_loop");

    await plane.update("web", sleeps);

    expect((await plane.until("web", "running")).status).toMatchObject({
      restarts: 0,
      failures: 0,
      recentFailures: [],
    });
  });

  test.each([
    ["always", 0, "backing_off", "EXITED"],
    ["always", 1, "backing_off", "EXITED"],
    ["on_failure", 0, "completed", ""],
    ["on_failure", 1, "backing_off", "EXITED"],
    ["never", 0, "completed", ""],
    ["never", 1, "failed", "EXITED"],
  ] as const)("with the policy %s the code %i leads to %s", async (mode, code, state, reason) => {
    await plane.create("web", exitsWith(code), { restart: { mode, baseDelayMs: 600_000, maxDelayMs: 600_000 } });

    const { status } = await plane.until("web", state);

    expect(status).toMatchObject({ reason, ready: false, lastExit: { code, requested: false } });
    expect(await plane.happened("web", "instance_starting")).toHaveLength(1);
  });

  test("a signal is a failure whatever the policy", async () => {
    await plane.create("web", ["sh", "-c", "kill -TERM $$; sleep 1000"], { restart: { mode: "never" } });

    const { status } = await plane.until("web", "failed");

    expect(status).toMatchObject({ lastExit: { reason: "signaled", signal: "SIGTERM", requested: false } });
  });

  test("after max_restarts restarts in a row it is given up, until somebody starts it", async () => {
    await plane.create("web", exitsWith(1), { restart: { baseDelayMs: 20, maxRestarts: 2 } });

    const { status } = await plane.until("web", "failed");
    expect(status).toMatchObject({ reason: "MAX_RESTARTS", failures: 3, restarts: 2 });
    expect(await plane.happened("web", "instance_starting")).toHaveLength(3);

    await plane.wish("restart", "web");
    await plane.happened("web", "service_failed", 2);
    expect(await plane.happened("web", "instance_starting")).toHaveLength(6);
  });
});

/** From an end to the start that was planned for it. */
function delayOf({ status }: Service): number {
  return (status.nextStartTime?.getTime() ?? 0) - status.transitionTime.getTime();
}
