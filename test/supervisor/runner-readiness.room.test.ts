import { once } from "node:events";
import { rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { publicPrefix, type Service } from "../../src/domain/service.ts";
import { type OwnPlane, openPlane } from "./own-plane.ts";
import type { Plane } from "./plane.ts";
import { fixture } from "./workbench.ts";

let own: OwnPlane;
let plane: Plane;
beforeEach(async () => {
  own = await openPlane();
  ({ plane } = own);
});
afterEach(() => own.clear());

const serves = [process.execPath, fixture("web-service.mjs")] as const;
const picked = { url: "http://127.0.0.1:0" } as const;
const isReady = ({ status }: Service) => status.state === "running" && status.ready;

/** The environment that the service itself tells, at the address that its status tells. */
async function environmentOf({ name, status }: Service): Promise<Record<string, string>> {
  const response = await fetch(`${status.url}${publicPrefix(name)}`);
  return (await response.json()) as Record<string, string>;
}

test("a service with a url is ready once it answers, and its route waits for that", async () => {
  const gate = join(own.stateDirectory.path, "gate");
  await plane.create("web", [...serves, gate], picked);
  const started = await plane.happened("web", "instance_started").then(() => plane.service("web"));
  expect(started.status).toMatchObject({ state: "starting", ready: false, published: false });

  writeFileSync(gate, "");
  const { status } = await plane.until("web", isReady);

  expect(status.published).toBe(true);
  expect(await plane.typesOf("web")).toContain("instance_ready");
});

test("one that does not answer in time is stopped, and that is a failure", async () => {
  await plane.create("web", [...serves, "/nowhere"], {
    ...picked,
    readinessTimeoutMs: 1_000,
    restart: { baseDelayMs: 600_000, maxDelayMs: 600_000 },
  });

  const { status } = await plane.until("web", "backing_off");

  expect(status).toMatchObject({ reason: "READINESS_TIMEOUT", failures: 1, published: false });
  expect(status.message).toContain("did not succeed within 1 s");
  expect(own.stateDirectory.shims()).toEqual([]);
});

test("one that ends before it answers never was ready", async () => {
  await plane.create("web", ["false"], { ...picked, restart: { mode: "never" } });

  const { status } = await plane.until("web", "failed");

  expect(status).toMatchObject({ reason: "EXITED", lastExit: { code: 1 }, published: false });
  expect(await plane.typesOf("web")).not.toContain("instance_ready");
});

test("the port that was picked is the same in the status and in the environment of the service", async () => {
  await plane.create("web", serves, picked);

  const service = await plane.until("web", isReady);

  expect(service.status.url).toMatch(/^http:\/\/127\.0\.0\.1:2\d{4}$/);
  expect(service.spec.url).toBe("http://127.0.0.1:0");
  expect(await environmentOf(service)).toMatchObject({
    JUPYTERHUB_SERVICE_NAME: "web",
    JUPYTERHUB_SERVICE_PREFIX: "/services/web/",
    JUPYTERHUB_SERVICE_URL: service.status.url,
    STEWARD_INSTANCE: service.status.instanceId,
  });
});

test("it stays the same over a crash, a restart and a stop", async () => {
  await plane.create("web", serves, picked);
  const { status: first } = await plane.until("web", isReady);

  process.kill(first.pid ?? 0, "SIGKILL");
  const { status: second } = await plane.until("web", (now) => isReady(now) && now.status.pid !== first.pid);
  await plane.wish("restart", "web");
  const { status: third } = await plane.until("web", (now) => isReady(now) && now.status.pid !== second.pid);
  await plane.wish("stop", "web");
  await plane.until("web", "stopped");
  await plane.wish("start", "web");
  const fourth = await plane.until("web", isReady);

  expect([second.url, third.url, fourth.status.url]).toEqual([first.url, first.url, first.url]);
  expect(await environmentOf(fourth)).toMatchObject({ JUPYTERHUB_SERVICE_URL: first.url });
});

test("a port that somebody took meanwhile is replaced by another, and the service is told", async () => {
  await plane.create("web", serves, picked);
  const { status: before } = await plane.until("web", isReady);
  await plane.wish("stop", "web");
  await plane.until("web", "stopped");
  const thief = createServer().listen(Number(new URL(before.url ?? "").port), "127.0.0.1");
  await once(thief, "listening");

  await plane.wish("start", "web");
  const after = await plane.until("web", isReady);
  thief.close();

  expect(after.status.url).not.toBe(before.url);
  expect(await environmentOf(after)).toMatchObject({ JUPYTERHUB_SERVICE_URL: after.status.url });
});

test("services that start at the same time get ports of their own", async () => {
  const names = Array.from({ length: 5 }, (_, index) => `web-${index}`);
  await Promise.all(names.map((name) => plane.create(name, serves, picked)));

  const services = await Promise.all(names.map((name) => plane.until(name, isReady)));

  expect(new Set(services.map(({ status }) => status.url)).size).toBe(names.length);
  for (const service of services) expect((await environmentOf(service))["JUPYTERHUB_SERVICE_NAME"]).toBe(service.name);
});

test("a crash leaves the route in place, and what does not answer again is told from what does", async () => {
  const gate = join(own.stateDirectory.path, "gate");
  writeFileSync(gate, "");
  await plane.create("web", [...serves, gate], picked);
  const { status: before } = await plane.until("web", isReady);

  rmSync(gate);
  process.kill(before.pid ?? 0, "SIGKILL");
  const { status: during } = await plane.until("web", (now) => now.status.restarts === 1);
  expect(during).toMatchObject({ state: "starting", ready: false, published: true });

  writeFileSync(gate, "");
  expect((await plane.until("web", isReady)).status.url).toBe(before.url);
});
