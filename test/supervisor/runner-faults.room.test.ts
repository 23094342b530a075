import { once } from "node:events";
import {
  chmodSync,
  createWriteStream,
  mkdirSync,
  rmdirSync,
  rmSync,
  statSync,
  type WriteStream,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
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

const mebibyte = 1024 * 1024;
const onlyOnce = { restart: { mode: "never" } } as const;
const program = (text: string) => {
  const path = join(own.stateDirectory.path, "program");
  writeFileSync(path, text);
  chmodSync(path, 0o755);
  return path;
};

describe("what cannot be started", () => {
  test("counts as an exit and is tried again, so that it runs once the cause is gone", async () => {
    const path = program("#!/bin/sh\nexec sleep 1000\n");
    await plane.create("web", [path], { restart: { baseDelayMs: 100, maxDelayMs: 100 } });
    const { status: before } = await plane.until("web", "running");
    rmSync(path);

    process.kill(before.pid ?? 0, "SIGKILL");
    const { status } = await plane.until("web", ({ status }) => status.lastExit?.reason === "spawn_failed");
    expect(status.lastExit).toMatchObject({ code: undefined, message: expect.stringContaining(path) });
    expect((await plane.happened("web", "instance_exited", 3)).length).toBeGreaterThanOrEqual(3);

    program("#!/bin/sh\nexec sleep 1000\n");
    expect((await plane.until("web", "running")).status.lastExit?.reason).toBe("spawn_failed");
  });

  test("is a failure for every policy", async () => {
    const path = program("#!/no/such/interpreter\n");

    await plane.create("web", [path], { restart: { mode: "on_failure", maxRestarts: 1, baseDelayMs: 20 } });

    const { status } = await plane.until("web", "failed");
    expect(status).toMatchObject({ reason: "MAX_RESTARTS", lastExit: { reason: "spawn_failed", requested: false } });
  });

  test("may be a program that the system cannot read", async () => {
    await plane.create("web", [program("\x7fELF, but not really")], onlyOnce);

    const { status } = await plane.until("web", "failed");

    expect(status.lastExit?.reason).toBe("spawn_failed");
  });

  test("may be for want of a directory", async () => {
    const cwd = join(own.stateDirectory.path, "place");
    mkdirSync(cwd);
    await plane.create("web", ["sleep", "1000"], { cwd, restart: { mode: "on_failure", maxRestarts: 0 } });
    const { status: before } = await plane.until("web", "running");
    rmdirSync(cwd);

    process.kill(before.pid ?? 0, "SIGKILL");
    await plane.until("web", "failed");
    await plane.wish("restart", "web");
    const [, exit] = await plane.happened("web", "instance_exited", 2);

    expect(exit?.body).toMatchObject({ exit: { reason: "spawn_failed", message: expect.stringContaining(cwd) } });
  });
});

describe("a command that", () => {
  test("ends at once is seen, with its code and all it wrote", async () => {
    await plane.create("web", ["sh", "-c", "echo out; echo err >&2; exit 42"], onlyOnce);

    const { status } = await plane.until("web", "failed");

    expect(status.lastExit).toMatchObject({ reason: "exited", code: 42, requested: false });
    expect(await plane.output("web")).toBe("out\n");
    expect(await plane.output("web", "stderr")).toBe("err\n");
  });

  test("ends at once twenty times over is never lost", async () => {
    const names = Array.from({ length: 20 }, (_, index) => `web-${index}`);
    await Promise.all(names.map((name, code) => plane.create(name, ["sh", "-c", `exit ${code + 1}`], onlyOnce)));

    const services = await Promise.all(names.map((name) => plane.until(name, "failed")));

    expect(services.map(({ status }) => status.lastExit?.code)).toEqual(names.map((_, code) => code + 1));
  });

  test("ignores the signal is killed after its grace, and the next one starts only then", async () => {
    await plane.create("web", [fixture("stubborn.sh")], { stopGraceMs: 300 });
    const { status: before } = await plane.until("web", "running");
    await eventually(async () => (await plane.output("web")) === "ready\n");

    await plane.wish("restart", "web");
    const { status } = await plane.until("web", ({ status }) => status.observedGeneration === 2);

    expect(isRunning(before.pid ?? 0)).toBe(false);
    expect(status.lastExit).toMatchObject({ reason: "signaled", signal: "SIGKILL", requested: true });
  });

  test("has children, some in a session of their own, takes them along when it is stopped", async () => {
    await plane.create("web", [fixture("family.sh")], { stopGraceMs: 500 });
    const pids = await descendants("web");

    await plane.wish("stop", "web");
    await plane.until("web", "stopped");

    expect(pids.map(isRunning)).toEqual([false, false]);
  });

  test("leaves its children behind when it is killed has them cleared before another starts", async () => {
    await plane.create("web", [fixture("family.sh")]);
    const pids = await descendants("web");
    const { status } = await plane.until("web", "running");

    process.kill(status.pid ?? 0, "SIGKILL");
    await plane.happened("web", "instance_exited");

    expect(pids.map(isRunning)).toEqual([false, false]);
  });

  test("goes into the background has ended, and is not left running beside its successor", async () => {
    await plane.create("web", ["sh", "-c", "setsid sleep 1000 & echo $!"], onlyOnce);

    await plane.until("web", "completed");

    expect(isRunning(Number(await plane.output("web")))).toBe(false);
  });

  test("writes a gibibyte costs no memory of ours and little disk, and its last lines can be read", async () => {
    const fifo = join(own.stateDirectory.path, "orders");
    await runTool("/usr/bin/mkfifo", [fifo]);
    const { uid } = await plane.create("web", [fixture("flood.sh"), fifo], onlyOnce);
    const orders = createWriteStream(fifo, { flags: "r+" });
    const log = join(own.stateDirectory.path, "logs", uid, "stdout.log");
    await flood(orders, log, 64);
    const before = process.memoryUsage();

    for (let total = 64; total < 1024; total += 192) await flood(orders, log, 192);

    const after = process.memoryUsage();
    expect(statSync(log).size).toBeGreaterThan(1024 * mebibyte);
    expect(after.external - before.external).toBeLessThan(16 * mebibyte);
    expect(after.rss - before.rss).toBeLessThan(64 * mebibyte);
    orders.end();
    await plane.until("web", "completed");
    expect(await lastLines("web", 2)).toBe("wrote 192\nover\n");
  });
});

test("stopping many that all ignore the signal takes little more than the longest grace", async () => {
  const graces = Array.from({ length: 20 }, (_, index) => 500 + 50 * index);
  const names = graces.map((graceMs) => `web-${graceMs}`);
  await Promise.all(
    graces.map((stopGraceMs) => plane.create(`web-${stopGraceMs}`, [fixture("stubborn.sh")], { stopGraceMs })),
  );
  await Promise.all(names.map((name) => plane.until(name, "running")));
  await Promise.all(names.map((name) => eventually(async () => (await plane.output(name)) === "ready\n")));

  const start = performance.now();
  await Promise.all(names.map((name) => plane.wish("stop", name)));
  const stopped = await Promise.all(names.map((name) => plane.until(name, "stopped")));
  const tookMs = performance.now() - start;

  expect(stopped.map(({ status }) => status.lastExit?.signal)).toEqual(names.map(() => "SIGKILL"));
  const [longest = 0, inTurn] = [graces.at(-1), graces.reduce((sum, graceMs) => sum + graceMs)];
  expect(tookMs).toBeGreaterThanOrEqual(longest);
  expect(tookMs).toBeLessThan(inTurn / 2);
});

async function descendants(name: string): Promise<number[]> {
  const pids = await eventually(async () => {
    const printed = (await plane.output(name)).trim().split("\n").map(Number);
    return printed.length === 2 && printed;
  });
  expect(pids.map(isRunning)).toEqual([true, true]);
  return pids;
}

/** Resolves once it is all written and what is too much of it is given back. */
async function flood(orders: WriteStream, log: string, count: number): Promise<void> {
  const size = () => statSync(log, { throwIfNoEntry: false })?.size ?? 0;
  const aim = size() + count * mebibyte;
  if (!orders.write(`${count}\n`)) await once(orders, "drain");
  await eventually(() => size() > aim && statSync(log).blocks * 512 < 57 * mebibyte, { timeoutMs: 40_000 });
}

async function lastLines(name: string, tailLines: number): Promise<string> {
  const service = await plane.service(name);
  const { signal } = new AbortController();
  let text = "";
  const logs = plane.supervisor.logs({ service, streams: ["stdout"], tailLines, follow: false, signal });
  for await (const { data } of logs) text += data.toString();
  return text;
}
