import { readdirSync, readFileSync, rmSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { isRunning } from "../supervisor/state-directory.ts";
import { Trial } from "../supervisor/trial.ts";
import { fixture } from "../supervisor/workbench.ts";
import { eventually } from "../support/eventually.ts";

/** What the death of the server must not do to its services, as a witness outside of it sees it. */
let trial: Trial;
beforeEach(async () => {
  trial = await Trial.open();
});
afterEach(() => trial.close());

test("live work is never taken for leaked, however old its record, however often the next server dies in the middle of taking over", async () => {
  await trial.startSupervisor();
  const names = ["web-1", "web-2", "web-3"];
  for (const name of names) await trial.register(name);
  await trial.settled(names);
  const pids = names.map((name) => trial.alive(name));
  await trial.killSupervisor();
  const longAgo = new Date(Date.now() - 3_600_000);
  for (const instance of directoriesIn("run")) {
    utimesSync(instance, longAgo, longAgo);
    rmSync(join(instance, "alive"));
  }

  for (let count = 1; count <= 4; count++) {
    await trial.startSupervisor({ failPoint: "adopting", failAtTime: 1 + (count % 3) });
    await trial.supervisorEnded();
  }
  await trial.startSupervisor();
  await trial.settled(names);

  expect(names.map((name) => trial.alive(name))).toEqual(pids);
  expect(names.map((name) => trial.lives(name).length)).toEqual([1, 1, 1]);
  for (const name of names) expect(await trial.faults(name)).toEqual([]);
});

test("what was stopped, deleted or ended while no server looked leaves no process, not even one that left the session", async () => {
  await trial.startSupervisor();
  const names = ["stopped", "deleted", "ended"];
  const onlyOnce = { restart: { mode: "never" } } as const;
  for (const name of names) await trial.desk.create(name, [fixture("family.sh")], onlyOnce);
  const services = await Promise.all(names.map((name) => trial.desk.until(name, "running")));
  const families = await eventually(() => {
    const pids = services.map(({ status }) => familyOf(status.instanceId ?? ""));
    return pids.every((family) => family.length >= 4) && pids;
  });
  await trial.killSupervisor();

  await trial.desk.wish("stop", "stopped");
  await trial.desk.remove("deleted");
  process.kill(services[2]?.status.pid ?? 0, "SIGKILL");
  await trial.startSupervisor();
  await trial.desk.until("stopped", "stopped");
  await trial.desk.happened("deleted", "service_deleted");
  await trial.desk.until("ended", "failed");

  expect(families.flat().filter(isRunning)).toEqual([]);
  expect(services.flatMap(({ status }) => familyOf(status.instanceId ?? ""))).toEqual([]);
});

test("a stop that a dying server had begun meets its own instance, never the healthy successor", async () => {
  await trial.startSupervisor({ failPoint: "stop_signalled" });
  await trial.register("web");
  await trial.settled(["web"]);
  await trial.desk.wish("stop", "web");
  await trial.supervisorEnded();

  await trial.desk.wish("start", "web");
  await trial.startSupervisor();
  await trial.settled(["web"]);
  const successor = trial.alive("web");
  for (let count = 0; count < 3; count++) {
    await trial.killSupervisor();
    await trial.startSupervisor();
    await trial.desk.happened("web", "instance_adopted", count + 1);
  }
  await trial.settled(["web"]);

  expect(trial.alive("web")).toBe(successor);
  expect(trial.lives("web")).toHaveLength(2);
  expect(await trial.desk.happened("web", "instance_stopping")).toHaveLength(1);
  expect(await trial.faults("web")).toEqual([]);
});

test("a stop that was overtaken by a start while no server looked is not done later", async () => {
  await trial.startSupervisor();
  await trial.register("web");
  await trial.settled(["web"]);
  const before = trial.alive("web");
  await trial.killSupervisor();

  await trial.desk.wish("stop", "web");
  await trial.desk.wish("start", "web");
  await trial.startSupervisor();
  await trial.settled(["web"]);
  await trial.desk.wish("restart", "web");
  await trial.settled(["web"]);

  expect((await trial.desk.service("web")).wish).toBe("running");
  expect(await trial.desk.typesOf("web")).not.toContain("service_stopped");
  expect(trial.alive("web")).not.toBe(before);
  expect(await trial.faults("web")).toEqual([]);
});

function directoriesIn(name: string): string[] {
  const root = join(trial.directory.path, name);
  return readdirSync(root).map((entry) => join(root, entry));
}

/** Every process that bears the marker of an instance. */
function familyOf(instanceId: string): number[] {
  const pids = readdirSync("/proc").map(Number).filter(Number.isInteger);
  return pids.filter((pid) => isRunning(pid) && environmentOf(pid).includes(`STEWARD_INSTANCE=${instanceId}`));
}

function environmentOf(pid: number): readonly string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, "utf8").split("\0");
  } catch {
    return []; // it ended meanwhile
  }
}
