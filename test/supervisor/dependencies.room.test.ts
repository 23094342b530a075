import { afterEach, beforeEach, expect, test } from "vitest";
import { type OwnPlane, openPlane } from "./own-plane.ts";
import type { Plane } from "./plane.ts";

let own: OwnPlane;
let plane: Plane;

beforeEach(async () => {
  own = await openPlane();
  plane = own.plane;
});

afterEach(() => own.clear());

const sleep = ["sleep", "1000"];

test("services start in the order of their dependencies", async () => {
  await plane.create("db", ["sh", "-c", "sleep 0.3; exec sleep 1000"], { minReadyMs: 300 });
  await plane.create("api", sleep, { dependsOn: [{ service: "db", condition: "ready" }] });
  await plane.create("web", sleep, { dependsOn: [{ service: "api", condition: "started" }] });
  await plane.until("web", "running");

  const at = async (name: string, type: "instance_starting" | "instance_started" | "instance_ready") =>
    (await plane.happened(name, type))[0]?.revision ?? 0n;
  expect(await at("api", "instance_starting")).toBeGreaterThan(await at("db", "instance_ready"));
  expect(await at("web", "instance_starting")).toBeGreaterThan(await at("api", "instance_started"));
  expect(await plane.typesOf("api")).toContain("service_waiting");
});

test("a task must be done first, and once it is its dependents start", async () => {
  await plane.create("migrate", ["sh", "-c", "exit 0"], { restart: { mode: "on_failure" } });
  await plane.create("app", sleep, { dependsOn: [{ service: "migrate", condition: "completed" }] });

  await plane.until("app", "running");
  expect((await plane.service("migrate")).status.state).toBe("completed");
});

test("a task that fails holds back its dependents and nobody else", async () => {
  await plane.create("migrate", ["sh", "-c", "exit 1"], { restart: { mode: "never" } });
  await plane.create("app", sleep, { dependsOn: [{ service: "migrate", condition: "completed" }] });
  await plane.create("other", sleep);

  await plane.until("migrate", "failed");
  await plane.until("other", "running");
  const held = await plane.until("app", ({ status }) => status.reason === "WAITING_FOR_DEPENDENCY");
  expect(held.status).toMatchObject({ state: "pending", waitingFor: [{ service: "migrate", condition: "completed" }] });
  expect(await plane.typesOf("app")).not.toContain("instance_starting");
});

test("a dependency that ends leaves its dependents running", async () => {
  await plane.create("db", sleep);
  await plane.create("api", sleep, { dependsOn: [{ service: "db", condition: "ready" }] });
  const { status } = await plane.until("api", "running");

  await plane.wish("stop", "db");
  await plane.until("db", "stopped");

  expect((await plane.service("api")).status).toMatchObject({ state: "running", pid: status.pid });
});

test("of services that are stopped together those which depend on others end first", async () => {
  const slowly = ["sh", "-c", "trap 'sleep 0.3; exit 0' TERM; while :; do sleep 0.05; done"];
  await plane.create("db", sleep);
  await plane.create("api", slowly, { dependsOn: [{ service: "db", condition: "ready" }] });
  await plane.create("web", slowly, { dependsOn: [{ service: "api", condition: "ready" }] });
  await plane.until("web", "running");

  await plane.stopAllServices();
  await plane.until("db", "stopped");

  const ended = async (name: string) => (await plane.happened(name, "instance_exited"))[0]?.revision ?? 0n;
  expect(await ended("web")).toBeLessThan(await ended("api"));
  expect(await ended("api")).toBeLessThan(await ended("db"));
});

test("one that waits is stopped, changed and removed like any other", async () => {
  await plane.create("db", ["sh", "-c", "exit 1"], { restart: { mode: "never" } });
  await plane.create("api", sleep, { dependsOn: [{ service: "db", condition: "ready" }] });
  await plane.until("api", ({ status }) => status.reason === "WAITING_FOR_DEPENDENCY");

  await plane.wish("stop", "api");
  await plane.until("api", "stopped");
  await plane.update("api", sleep);
  await plane.wish("start", "api");
  await plane.until("api", "running");
  await plane.remove("api");
});

test("circles, unknown services and a deletion that would leave a hole are refused and leave nothing behind", async () => {
  await plane.create("db", sleep);
  await plane.create("api", sleep, { dependsOn: [{ service: "db", condition: "ready" }] });
  await plane.until("api", "running");
  const before = await plane.store.events.bounds();

  const circle = plane.update("db", sleep, { dependsOn: [{ service: "API", condition: "ready" }] });
  await expect(circle).rejects.toThrow("would make a circle: db -> api -> db");
  const unknown = plane.create("web", sleep, { dependsOn: [{ service: "nobody", condition: "ready" }] });
  await expect(unknown).rejects.toThrow('there is no service "nobody"');
  const itself = plane.create("web", sleep, { dependsOn: [{ service: "web", condition: "ready" }] });
  await expect(itself).rejects.toThrow("cannot depend on itself");
  const hole = plane.remove("db", { force: false });
  await expect(hole).rejects.toMatchObject({ reason: "SERVICE_IN_USE", metadata: { dependents: "api" } });

  expect((await plane.service("db")).spec.kind).toMatchObject({ dependsOn: [] });
  expect((await plane.store.services.snapshot()).services.map(({ name }) => name)).toEqual(["api", "db"]);
  const refused = await plane.store.events.readAfter(before.head, 1_000);
  expect(refused.map(({ body }) => body.type).filter((type) => type.startsWith("service_"))).toEqual([]);
});

test("two changes at once cannot close a circle that neither sees", async () => {
  for (const name of ["a", "b"]) await plane.create(name, sleep);

  const outcomes = await Promise.allSettled([
    plane.update("a", sleep, { dependsOn: [{ service: "b", condition: "started" }] }),
    plane.update("b", sleep, { dependsOn: [{ service: "a", condition: "started" }] }),
  ]);

  expect(outcomes.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
});
