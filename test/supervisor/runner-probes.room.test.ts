import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { ProbeInput } from "../../src/domain/probe.ts";
import type { Service } from "../../src/domain/service.ts";
import { eventually } from "../support/eventually.ts";
import { type OwnPlane, openPlane } from "./own-plane.ts";
import type { Plane } from "./plane.ts";
import { isRunning } from "./state-directory.ts";

let own: OwnPlane;
let plane: Plane;
beforeEach(async () => {
  own = await openPlane();
  ({ plane } = own);
});
afterEach(() => own.clear());

const sleeps = ["sleep", "1000"] as const;
const isReady = ({ status }: Service) => status.state === "running" && status.ready;
const isUnready = ({ status }: Service) => status.state === "running" && !status.ready;
const file = (name: string) => join(own.stateDirectory.path, name);
const open = (gate: string) => writeFileSync(gate, "");

/** Asks by a command, quickly. */
function asks(command: readonly string[], more: Partial<ProbeInput> = {}): ProbeInput {
  return { action: { kind: "exec", command }, periodMs: 100, timeoutMs: 10_000, failureThreshold: 2, ...more };
}

const notified = { action: { kind: "notify", fd: 7 } } as const;

test("a readiness probe gates the route and tells ready from unready, and never ends a process", async () => {
  const gate = file("gate");
  await plane.create("web", sleeps, { readinessProbe: asks(["test", "-e", gate]), url: "http://127.0.0.1:0" });
  const { status: starting } = await plane.until("web", "starting");
  expect(starting).toMatchObject({ ready: false, published: false });

  open(gate);
  const { status: first } = await plane.until("web", isReady);
  expect(first.published).toBe(true);

  rmSync(gate);
  const { status: second } = await plane.until("web", isUnready);
  expect(second).toMatchObject({ reason: "UNREADY", pid: first.pid, published: true });
  expect(second.message).toBe("the command test failed 2 times in a row: it exits with code 1");

  open(gate);
  const { status: third } = await plane.until("web", isReady);
  expect(third).toMatchObject({ reason: "", pid: first.pid, restarts: 0 });
  expect((await plane.typesOf("web")).slice(3)).toEqual(["instance_ready", "instance_unready", "instance_ready"]);
});

test("a liveness probe that fails ends the process as a crash does, and another one is started", async () => {
  const gate = file("gate");
  open(gate);
  await plane.create("web", sleeps, {
    livenessProbe: asks(["test", "-e", gate]),
    restart: { baseDelayMs: 600_000, maxDelayMs: 600_000, immediateAfterMs: 600_000 },
  });
  const { status: before } = await plane.until("web", isReady);

  rmSync(gate);
  const { status } = await plane.until("web", "backing_off");

  expect(status).toMatchObject({ reason: "LIVENESS_FAILED", failures: 1, lastExit: { signal: "SIGTERM" } });
  expect(isRunning(before.pid ?? 0)).toBe(false);
  open(gate);
  await plane.wish("restart", "web");
  expect((await plane.until("web", isReady)).status.pid).not.toBe(before.pid);
});

test("the liveness failures of one instance do not count against the next", async () => {
  const log = file("asked");
  const fails = asks(["sh", "-c", `echo "$STEWARD_INSTANCE" >>"$0"; exit 1`, log], { failureThreshold: 3 });
  await plane.create("web", sleeps, { livenessProbe: fails, restart: { baseDelayMs: 100, maxDelayMs: 100 } });

  const exits = await plane.happened("web", "instance_exited", 3, 40_000);
  await plane.wish("stop", "web");

  const asked = readFileSync(log, "utf8").trim().split("\n");
  for (const { body } of exits.slice(0, 3)) {
    const { instanceId } = body as { instanceId: string };
    // One more may be under way before the stop is recorded.
    expect(asked.filter((marker) => marker.startsWith(`${instanceId}/`)).length).toBeGreaterThanOrEqual(3);
  }
});

test("a startup probe that does not succeed in time is a failed start; liveness is not asked before", async () => {
  const log = file("asked");
  await plane.create("web", sleeps, {
    startupProbe: asks(["false"]),
    livenessProbe: asks(["touch", log]),
    readinessTimeoutMs: 1_000,
    restart: { baseDelayMs: 600_000, maxDelayMs: 600_000 },
  });

  const { status } = await plane.until("web", "backing_off");

  expect(status).toMatchObject({ reason: "READINESS_TIMEOUT", failures: 1 });
  expect(status.message).toMatch(/^the command false did not succeed within 1 s: /);
  expect(() => readFileSync(log)).toThrow("ENOENT");
});

test("a line on the descriptor that it asked for says that a process is ready", async () => {
  await plane.create("web", ["sh", "-c", `printf '\\n' >&7; exec sleep 1000`], { startupProbe: notified });

  await plane.until("web", isReady);
});

test("one that never says so is not ready in time", async () => {
  await plane.create("web", sleeps, {
    readinessProbe: notified,
    readinessTimeoutMs: 300,
    restart: { baseDelayMs: 600_000, maxDelayMs: 600_000 },
  });

  expect((await plane.until("web", "backing_off")).status.reason).toBe("READINESS_TIMEOUT");
});

test("what a process says while no server runs is heard by the next", async () => {
  const gate = file("gate");
  const waits = `until [ -e "$0" ]; do sleep 0.05; done; printf '\\n' >&7; : >"$0.said"; exec sleep 1000`;
  await plane.create("web", ["sh", "-c", waits, gate], { readinessProbe: notified });
  await plane.happened("web", "instance_started");
  await plane.letGo();

  open(gate);
  await eventually(() => readFileSync(`${gate}.said`, "utf8") === "");
  await plane.supervise();
  await plane.until("web", isReady);

  expect(await plane.typesOf("web")).toEqual([
    "service_created",
    "instance_starting",
    "instance_started",
    "instance_adopted",
    "instance_ready",
  ]);
});

test("an adopted process is asked by commands in the environment that it was given", async () => {
  const gate = file("gate");
  open(gate);
  await plane.create("web", sleeps, {
    environment: { GATE: gate },
    readinessProbe: asks(["sh", "-c", `[ -e "$GATE" ]`]),
  });
  const { status: before } = await plane.until("web", isReady);
  await plane.letGo();
  await plane.supervise();
  await plane.happened("web", "instance_adopted");

  rmSync(gate);
  const { status } = await plane.until("web", isUnready);

  expect(status).toMatchObject({ pid: before.pid, message: expect.stringContaining("exits with code 1") });
  open(gate);
  expect((await plane.until("web", isReady)).status.pid).toBe(before.pid);
});

test("a probe is changed without a new process, which goes on being as ready as it was", async () => {
  await plane.create("web", sleeps, { readinessProbe: asks(["true"]) });
  const { status: before } = await plane.until("web", isReady);

  await plane.update("web", sleeps, { readinessProbe: asks(["false"]) });
  const { status, generation } = await plane.until("web", isUnready);

  expect({ pid: status.pid, generation }).toEqual({ pid: before.pid, generation: 1 });
  await plane.update("web", sleeps);
  expect((await plane.until("web", isReady)).status.pid).toBe(before.pid);
});

test("another descriptor to tell readiness on takes a new process", async () => {
  const command = ["sh", "-c", `printf '\\n' >&7 2>/dev/null; printf '\\n' >&8 2>/dev/null; exec sleep 1000`];
  await plane.create("web", command, { readinessProbe: notified });
  const { status: before } = await plane.until("web", isReady);

  await plane.update("web", command, { readinessProbe: { action: { kind: "notify", fd: 8 } } });

  const after = await plane.until("web", (now) => isReady(now) && now.status.observedGeneration === 2);
  expect(after.status.pid).not.toBe(before.pid);
});

test("the last ten answers are kept, newest first, and are no events", async () => {
  const service = await plane.create("web", sleeps, {
    readinessProbe: asks(["true"]),
    livenessProbe: asks(["true"]),
  });
  await plane.until("web", isReady);

  const results = await eventually(() => {
    const found = plane.supervisor.probeResults(service);
    return found.length === 10 ? found : undefined;
  });

  expect(new Set(results.map(({ role }) => role))).toEqual(new Set(["readiness", "liveness"]));
  expect(results.every(({ success, message }) => success && message === "it exits with code 0")).toBe(true);
  const times = results.map(({ time }) => time.getTime());
  expect(times).toEqual([...times].sort((one, other) => other - one));
  expect(await plane.typesOf("web")).toHaveLength(4);
});
