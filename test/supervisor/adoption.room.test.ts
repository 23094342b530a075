import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { afterEach, beforeEach, expect, test } from "vitest";
import { adopt } from "../../src/supervisor/adoption.ts";
import { commandPid, type InstanceReference } from "../../src/supervisor/instance-handle.ts";
import { stateOf } from "../../src/supervisor/process-identity.ts";
import { runTool, signalGroup, signalProcess } from "../../src/supervisor/spawn.ts";
import { eventually } from "../support/eventually.ts";
import { fixture, Workbench } from "./workbench.ts";

let bench: Workbench;
const planes: ChildProcess[] = [];
beforeEach(() => {
  bench = new Workbench();
});
afterEach(async () => {
  for (const plane of planes.splice(0)) plane.kill("SIGKILL");
  await bench.clear();
});

test("after kill -9 of the control plane a service runs on, writes on, and its exit is collected by the next", async () => {
  const gate = await fifo("gate");
  const [instance] = await launchAndDie([["sh", "-c", `echo before; read code <${gate}; echo after; exit "$code"`]]);

  const adoption = await adopt(instance, bench.leftovers);
  expect(adoption.alive).toBe(true);
  if (!adoption.alive) return;
  expect(await eventually(() => commandPid(instance))).toBeGreaterThan(0);
  writeFileSync(gate, "42\n");

  expect(await adoption.handle.exited).toMatchObject({ reason: "exited", code: 42 });
  expect(bench.output(instance)).toBe("before\nafter\n");
});

test("a hundred adoptions give a hundred right exits, whether they came before or after", async () => {
  const gates = await Promise.all(Array.from({ length: 100 }, (_, index) => fifo(`gate-${index}`)));
  const instances = await launchAndDie(gates.map((gate) => ["sh", "-c", `read code <${gate}; exit "$code"`]));
  const end = (index: number) => writeFileSync(gates[index] ?? "", `${index}\n`);

  for (let index = 0; index < 50; index++) end(index);
  await eventually(() => instances.slice(0, 50).every(({ identity }) => stateOf(identity) !== "alive"));
  const adoptions = await Promise.all(instances.map((instance) => adopt(instance, bench.leftovers)));
  for (let index = 50; index < 100; index++) end(index);
  const exits = await Promise.all(adoptions.map(async (found) => (found.alive ? found.handle.exited : found.exit)));

  expect(adoptions.map(({ alive }) => alive)).toEqual(gates.map((_, index) => index >= 50));
  expect(exits.map(({ reason, code }) => [reason, code])).toEqual(gates.map((_, index) => ["exited", index]));
});

test("the end of an adopted service is known within milliseconds", async () => {
  const [instance] = await launchAndDie([["sleep", "1000"]]);
  const adoption = await adopt(instance, bench.leftovers);
  const pid = await eventually(() => commandPid(instance));

  const start = performance.now();
  process.kill(pid, "SIGTERM");

  expect(adoption.alive && (await adoption.handle.exited)).toMatchObject({ reason: "signaled", signal: "SIGTERM" });
  expect(performance.now() - start).toBeLessThan(500);
});

test("a control plane that dies before the release has started nothing", async () => {
  const witness = `${bench.directory}/witness`;
  const [instance] = await launchAndDie([["touch", witness]], { release: false });

  const adoption = await adopt(instance, bench.leftovers);
  const exit = adoption.alive ? await adoption.handle.exited : adoption.exit;

  expect(exit).toMatchObject({ reason: "spawn_failed", message: "it was given up before it was let go" });
  expect(existsSync(witness)).toBe(false);
});

test("a shim that was killed meanwhile leaves an exit that is lost, and no process", async () => {
  const [instance] = await launchAndDie([["sleep", "1000"]]);
  const pid = await eventually(() => commandPid(instance));
  signalProcess(instance.identity, "SIGKILL");
  await eventually(() => stateOf(instance.identity) !== "alive");

  const adoption = await adopt(instance, bench.leftovers);

  expect(adoption).toMatchObject({ alive: false, exit: { reason: "lost", code: undefined } });
  await eventually(() => !isRunning(pid));
});

test("without its FIFO an adopted service is still watched", async () => {
  const [instance] = await launchAndDie([["sleep", "1000"]]);
  const pid = await eventually(() => commandPid(instance));
  rmSync(`${instance.runDir}/alive`);
  const adoption = await adopt(instance, bench.leftovers);

  process.kill(pid, "SIGKILL");

  expect(adoption.alive && (await adoption.handle.exited)).toMatchObject({ reason: "signaled", signal: "SIGKILL" });
});

test("another process that took over the pid is neither adopted nor signalled", async () => {
  const stranger = spawn("sleep", ["1000"], { detached: true, stdio: "ignore" });
  planes.push(stranger);
  await nextTick();
  const launched = await bench.run(["sh", "-c", "exit 3"]);
  await launched.exited;
  const taken: InstanceReference = { ...launched, identity: { ...launched.identity, pid: stranger.pid ?? 0 } };

  expect(signalGroup(taken.identity, "SIGKILL")).toBe(false);
  expect(signalProcess(taken.identity, "SIGKILL")).toBe(false);
  expect(await adopt(taken, bench.leftovers)).toMatchObject({ alive: false, exit: { reason: "exited", code: 3 } });
  expect(await bench.leftovers.kill(taken)).toEqual([]);
  expect(isRunning(stranger.pid ?? 0)).toBe(true);
});

test("after a reboot nothing is signalled, and a record that was written before it still counts", async () => {
  const launched = await bench.run(["sh", "-c", "exit 5"]);
  await launched.exited;
  const alive = await bench.run(["sleep", "1000"]);
  const before = { ...alive, identity: { ...alive.identity, bootId: "another" } };

  expect(signalGroup(before.identity, "SIGKILL")).toBe(false);
  expect(await bench.leftovers.kill(before)).toEqual([]);
  expect(stateOf(alive.identity)).toBe("alive");
  expect(await adopt({ ...launched, identity: before.identity }, bench.leftovers)).toMatchObject({ exit: { code: 5 } });
});

/** Lets another control plane start the commands, and kills it. */
async function launchAndDie(
  commands: readonly (readonly string[])[],
  { release = true } = {},
): Promise<[InstanceReference, ...InstanceReference[]]> {
  const order = JSON.stringify({ directory: bench.directory, release, commands });
  const plane = spawn(process.execPath, [fixture("control-plane.ts"), order], { stdio: ["ignore", "pipe", "inherit"] });
  planes.push(plane);
  const [line] = await once(createInterface(plane.stdout), "line");
  const instances: [InstanceReference, ...InstanceReference[]] = JSON.parse(line);
  for (const instance of instances) bench.track(instance);
  plane.kill("SIGKILL");
  await once(plane, "exit");
  return instances;
}

/** Start times are told in hundredths of a second. */
async function nextTick(): Promise<void> {
  const uptime = () => readFileSync("/proc/uptime", "utf8").split(" ")[0];
  const before = uptime();
  await eventually(() => uptime() !== before);
}

async function fifo(name: string): Promise<string> {
  const path = `${bench.directory}/${name}`;
  await runTool("/usr/bin/mkfifo", [path]);
  return path;
}

function isRunning(pid: number): boolean {
  try {
    return !/^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}
