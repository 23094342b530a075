import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { InstanceExit } from "../../src/domain/status.ts";
import { runTool } from "../../src/supervisor/spawn.ts";
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
const onlyOnce = { restart: { mode: "never" } } as const;
const running = async (name: string) => (await plane.until(name, "running")).status;
const isGone = (pid: number | undefined) => eventually(() => !isRunning(pid ?? 0));

async function exitOf(name: string): Promise<InstanceExit> {
  const [event] = await plane.happened(name, "instance_exited");
  if (event?.body.type !== "instance_exited") throw new Error("another event");
  return event.body.exit;
}

/** A command that ends with the code that `tell` gives it. */
async function obeys(): Promise<{ command: readonly string[]; tell: (code: number) => void }> {
  const fifo = join(own.stateDirectory.path, "word");
  await runTool("/usr/bin/mkfifo", [fifo]);
  return {
    command: ["sh", "-c", `read -r code <"${fifo}"; exit "$code"`],
    tell: (code) => writeFileSync(fifo, `${code}\n`),
  };
}

test("what ran on is taken over as it is, and that is told", async () => {
  await plane.create("web", sleeps);
  const before = await running("web");

  await plane.letGo();
  expect(isRunning(before.pid ?? 0)).toBe(true);
  await plane.supervise();

  const [adopted] = await plane.happened("web", "instance_adopted");
  expect(adopted?.body).toMatchObject({ instanceId: before.instanceId, pid: before.pid });
  expect((await plane.service("web")).status).toEqual(before);
  expect(await plane.happened("web", "instance_starting")).toHaveLength(1);
});

test("what is taken over is looked after as if it had been started here", async () => {
  const { command, tell } = await obeys();
  await plane.create("web", command);
  const before = await running("web");
  await plane.letGo();
  await plane.supervise();

  tell(17);
  const { status } = await plane.until("web", (now) => now.status.state === "running" && now.status.restarts === 1);

  expect(status.pid).not.toBe(before.pid);
  expect(status.lastExit).toMatchObject({ reason: "exited", code: 17, requested: false });
});

test("it can be taken over again and again", async () => {
  await plane.create("web", sleeps);
  const before = await running("web");

  for (let count = 1; count <= 3; count++) {
    await plane.letGo();
    await plane.supervise();
    await plane.happened("web", "instance_adopted", count);
  }
  await plane.wish("stop", "web");
  await plane.until("web", "stopped");

  expect(isRunning(before.pid ?? 0)).toBe(false);
  expect(await exitOf("web")).toMatchObject({ reason: "signaled", signal: "SIGTERM", requested: true });
});

test("an exit while nobody watched is collected with its code", async () => {
  const { command, tell } = await obeys();
  await plane.create("web", command, onlyOnce);
  const { pid } = await running("web");
  await plane.letGo();

  tell(42);
  await isGone(pid);
  await plane.supervise();

  expect((await plane.until("web", "failed")).status.lastExit).toMatchObject({ reason: "exited", code: 42 });
  expect(await exitOf("web")).toMatchObject({ code: 42, requested: false });
  expect(await plane.typesOf("web")).not.toContain("instance_adopted");
});

test.each(["SIGKILL", "SIGSEGV"] as const)("so is an end by %s, and a restart follows", async (signal) => {
  await plane.create("web", sleeps);
  const { pid = 0 } = await running("web");
  await plane.letGo();

  process.kill(pid, signal);
  await isGone(pid);
  await plane.supervise();

  const { status } = await plane.until("web", (now) => now.status.state === "running" && now.status.pid !== pid);
  expect(status).toMatchObject({ restarts: 1, lastExit: { reason: "signaled", signal, requested: false } });
});

test("what such a service left behind is cleared before another starts", async () => {
  await plane.create("web", ["sh", "-c", "setsid sleep 1000 & echo $!; exec sleep 1001"]);
  const { pid = 0 } = await running("web");
  const child = Number(await eventually(() => plane.output("web").then((text) => text !== "" && text)));
  await plane.letGo();

  process.kill(pid, "SIGKILL");
  await isGone(pid);
  expect(isRunning(child)).toBe(true);
  await plane.supervise();
  await plane.happened("web", "instance_exited");

  expect(isRunning(child)).toBe(false);
});

test("where nothing recorded the end no code is invented", async () => {
  await plane.create("web", sleeps, onlyOnce);
  const { pid } = await running("web");
  const [shim = 0] = own.stateDirectory.shims();
  await plane.letGo();

  process.kill(shim, "SIGKILL");
  await isGone(shim);
  await plane.supervise();

  expect((await plane.until("web", "failed")).status).toMatchObject({
    reason: "EXITED",
    lastExit: { reason: "lost", code: undefined, signal: undefined },
  });
  expect(isRunning(pid ?? 0)).toBe(false);
});

test("neither is one when the run directory is gone", async () => {
  await plane.create("web", sleeps, onlyOnce);
  const { pid = 0, instanceId = "" } = await running("web");
  await plane.letGo();

  process.kill(pid, "SIGKILL");
  await isGone(pid);
  await eventually(() => own.stateDirectory.shims().length === 0);
  rmSync(plane.runDirectory(instanceId), { recursive: true });
  await plane.supervise();

  expect((await plane.until("web", "failed")).status.lastExit).toMatchObject({ reason: "lost", code: undefined });
});

test("a stop that was wished while nobody watched is done", async () => {
  await plane.create("web", sleeps);
  const { pid } = await running("web");
  await plane.letGo();

  await plane.wish("stop", "web");
  await plane.supervise();

  await plane.until("web", "stopped");
  expect(isRunning(pid ?? 0)).toBe(false);
});

test("so is a deletion", async () => {
  await plane.create("web", sleeps);
  const { pid } = await running("web");
  await plane.letGo();

  await plane.remove("web");
  await plane.supervise();

  await plane.happened("web", "service_deleted");
  expect(isRunning(pid ?? 0)).toBe(false);
});

test("so is a change", async () => {
  await plane.create("web", sleeps);
  const { pid } = await running("web");
  await plane.letGo();

  await plane.update("web", ["sleep", "2000"]);
  await plane.supervise();

  const { status } = await plane.until("web", (now) => now.status.state === "running" && now.status.pid !== pid);
  expect(status).toMatchObject({ observedGeneration: 2, failures: 0 });
  expect(isRunning(pid ?? 0)).toBe(false);
});

test("so is a creation", async () => {
  await plane.letGo();

  await plane.create("web", sleeps);
  await plane.supervise();

  await running("web");
});

test("a stop that was under way is gone on with", async () => {
  await plane.create("web", [fixture("stubborn.sh")], { stopGraceMs: 600 });
  const { pid } = await running("web");
  await eventually(async () => (await plane.output("web")) === "ready\n");
  await plane.wish("stop", "web");
  await plane.happened("web", "instance_stopping");

  await plane.letGo();
  await plane.supervise();

  const { status } = await plane.until("web", "stopped");
  expect(status.lastExit).toMatchObject({ reason: "signaled", signal: "SIGKILL", requested: true });
  expect(isRunning(pid ?? 0)).toBe(false);
});

test("a back-off that was under way is waited for, and counts on", async () => {
  await plane.create("web", ["false"], { restart: { baseDelayMs: 300, maxDelayMs: 600_000 } });
  const [scheduled] = await plane.happened("web", "restart_scheduled");

  await plane.letGo();
  await plane.supervise();

  const [, second] = await plane.happened("web", "instance_starting", 2);
  const due = scheduled?.after?.status.nextStartTime;
  expect(second?.time.getTime()).toBeGreaterThanOrEqual(due?.getTime() ?? Number.NaN);
  const [, exit] = await plane.happened("web", "instance_exited", 2);
  expect(exit?.after?.status).toMatchObject({ failures: 2, restarts: 1 });
});

test("a port that was picked stays with the service that runs at it", async () => {
  const command = [process.execPath, fixture("web-service.mjs")];
  const picked = { url: "http://127.0.0.1:0" };
  await plane.create("web", command, picked);
  const before = await running("web");
  await plane.letGo();
  await plane.supervise();

  await plane.create("other", command, picked);
  const other = await running("other");
  expect(other.url).not.toBe(before.url);

  await plane.wish("restart", "web");
  const { status } = await plane.until("web", (now) => now.status.ready && now.status.pid !== before.pid);
  expect(status.url).toBe(before.url);
});

test("what was written meanwhile is there, and what is written from then on", async () => {
  const { command, tell } = await obeys();
  await plane.create("web", ["sh", "-c", `echo before; (${command[2]}); echo after`], onlyOnce);
  await running("web");
  await plane.letGo();
  await plane.supervise();

  tell(0);
  await plane.until("web", "completed");

  expect(await plane.output("web")).toBe("before\nafter\n");
});

test("of thirty that ran on, ended or were stopped meanwhile each is told as it was", async () => {
  const names = Array.from({ length: 30 }, (_, index) => `web-${index}`);
  await Promise.all(names.map((name) => plane.create(name, sleeps, onlyOnce)));
  const before = await Promise.all(names.map(running));
  await plane.letGo();

  const [killed, stopped] = [names.filter((_, index) => index % 3 === 0), names.filter((_, index) => index % 3 === 1)];
  const pidOf = (name: string) => before[names.indexOf(name)]?.pid ?? 0;
  for (const name of killed) process.kill(pidOf(name), "SIGKILL");
  for (const name of stopped) await plane.wish("stop", name);
  await Promise.all(killed.map((name) => isGone(pidOf(name))));
  await plane.supervise();

  const ends = await Promise.all(killed.map(async (name) => (await plane.until(name, "failed")).status.lastExit));
  expect(ends.map((exit) => exit?.signal)).toEqual(killed.map(() => "SIGKILL"));
  await Promise.all(stopped.map((name) => plane.until(name, "stopped")));
  const kept = names.filter((_, index) => index % 3 === 2);
  await Promise.all(kept.map((name) => plane.happened(name, "instance_adopted")));
  expect((await Promise.all(kept.map(running))).map(({ pid }) => pid)).toEqual(kept.map(pidOf));
});

test("all processes can be ended with the server, and the next one starts them again", async () => {
  const names = ["web-1", "web-2", "web-3"];
  await Promise.all(names.map((name) => plane.create(name, sleeps)));
  const before = await Promise.all(names.map(running));

  await plane.supervisor.stopAll();
  expect(before.map(({ pid }) => isRunning(pid ?? 0))).toEqual([false, false, false]);
  await plane.letGo();
  await plane.supervise();

  const after = await Promise.all(names.map(running));
  expect(after.map(({ failures }) => failures)).toEqual([0, 0, 0]);
});
