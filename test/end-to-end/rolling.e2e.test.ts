import { once } from "node:events";
import { Agent, request as httpRequest } from "node:http";
import { connect } from "node:net";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";
import { EventType } from "../../gen/steward/v1/event_pb.ts";
import { ConditionType, ServiceState, UpdateStrategy } from "../../gen/steward/v1/service_pb.ts";
import { WaitCondition } from "../../gen/steward/v1/supervisor_pb.ts";
import { eventually } from "../support/eventually.ts";
import { managed } from "./bad-requests.ts";
import { TestSteward } from "./harness.ts";
import { refusalOf } from "./refusal.ts";
import { type Clients, clientsOf } from "./transports.ts";

const program = new URL("../fixtures/updated-service.mjs", import.meta.url).pathname;
/** Long enough for what is looked at during a drain. */
const longDrainMs = 5_000;

let steward: TestSteward;
let admin: Clients;

beforeAll(async () => {
  steward = await TestSteward.start({ proxy: "bundled" });
  admin = clientsOf("Connect with protobuf over HTTP/2", steward.addresses, steward.adminToken);
});

afterAll(async () => {
  await steward?.[Symbol.asyncDispose]();
});

function spec(
  environment: Readonly<Record<string, string>> = {},
  { readinessTimeoutMs = 10_000, drainMs = 1_000 } = {},
) {
  return {
    ...managed({
      command: [process.execPath, program],
      environment: { ...environment },
      updateStrategy: UpdateStrategy.ROLLING,
      readinessTimeout: durationFromMs(readinessTimeoutMs),
      drain: durationFromMs(drainMs),
    }),
    url: "http://127.0.0.1:0",
  };
}

async function register(name: string, drainMs?: number): Promise<void> {
  const own = drainMs === undefined ? spec() : spec({}, { drainMs });
  const { revision } = await admin.registry.create({ serviceId: name, service: { spec: own } });
  await ready(name, revision);
}

async function ready(name: string, minRevision: bigint) {
  const { service } = await admin.supervisor.wait({ name, condition: WaitCondition.READY, minRevision });
  if (service?.status === undefined) throw new Error("it has no status");
  return service.status;
}

async function status(name: string) {
  const { service } = await admin.registry.get({ name });
  if (service?.status === undefined) throw new Error("it has no status");
  return service.status;
}

const agent = new Agent({ keepAlive: true, maxSockets: 16 });

/** The pid that answers; fails on anything but 200. */
function visit(path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(`${steward.addresses.proxy}${path}`, { agent }, (response) => {
      let text = "";
      response.on("data", (data: Buffer) => (text += data.toString()));
      response.on("end", () =>
        response.statusCode === 200 ? resolve(Number(text)) : reject(new Error(`${response.statusCode}: ${text}`)),
      );
      response.on("error", reject);
    });
    request.on("error", reject);
    request.end();
  });
}

test("of ten thousand requests none fails while a service is restarted ten times", async () => {
  await register("busy");
  const pids = new Set<number>();
  const failures: unknown[] = [];
  let isRestarting = true;
  let requests = 0;
  const visitor = async () => {
    while (isRestarting || requests < 10_000) {
      requests++;
      await visit("/services/busy/").then(
        (pid) => pids.add(pid),
        (error: unknown) => failures.push(error),
      );
    }
  };

  const visitors = Promise.all(Array.from({ length: 8 }, visitor));
  for (let restart = 0; restart < 10; restart++) {
    const { revision } = await admin.supervisor.restart({ name: "busy" });
    await ready("busy", revision);
  }
  isRestarting = false;
  await visitors;

  expect(failures).toEqual([]);
  expect(requests).toBeGreaterThanOrEqual(10_000);
  expect(pids.size).toBeGreaterThanOrEqual(10);
});

test("a long request and an upgraded connection live on with the old process until the drain is over", async () => {
  await register("long", longDrainMs);
  const before = await status("long");
  const slow = visit(`/services/long/?ms=${longDrainMs / 2}`);
  const { host, port } = new URL(steward.addresses.proxy ?? "");
  const socket = connect(Number(port), "127.0.0.1");
  const ended = once(socket, "close");
  let heard = "";
  socket.on("data", (data: Buffer) => (heard += data.toString()));
  socket.write(`GET /services/long/ HTTP/1.1\r\nhost: ${host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n`);
  await eventually(() => heard.includes(`${before.pid}\n`));

  const { revision } = await admin.supervisor.restart({ name: "long" });
  const after = await ready("long", revision);
  const heardBySwitch = heard.length;

  expect(after.pid).not.toBe(before.pid);
  expect(await visit("/services/long/")).toBe(after.pid);
  expect(await slow).toBe(before.pid);
  await ended;
  expect(heard.length).toBeGreaterThan(heardBySwitch);
  await eventually(async () => (await status("long")).retiring === undefined);
});

test("an update that does not become ready leaves the old process at work, and says so", async () => {
  await register("stays");
  const before = await status("stays");

  const { service, revision } = await admin.registry.update({
    service: { name: "stays", spec: spec({ NEVER_READY: "1" }, { readinessTimeoutMs: 700 }) },
    updateMask: { paths: ["spec.managed.environment", "spec.managed.readiness_timeout"] },
  });
  const refusal = await refusalOf(ready("stays", revision));

  expect(refusal).toMatchObject({ code: "FailedPrecondition", reason: "WAIT_HOPELESS" });
  const after = await status("stays");
  expect(after).toMatchObject({ state: ServiceState.RUNNING, ready: true, pid: before.pid });
  expect(after.observedGeneration).toBeLessThan(service?.generation ?? 0n);
  expect(after.conditions).toMatchObject([{ type: ConditionType.UPDATE_FAILED }]);
  expect(await visit("/services/stays/")).toBe(before.pid);
  const { events } = await admin.supervisor.listEvents({ filter: "service = stays", pageSize: 1_000 });
  expect(events.map(({ type }) => type)).toContain(EventType.UPDATE_FAILED);
  const { causes } = await admin.supervisor.explain({ name: "stays" });
  expect(causes.map(({ message }) => message).join("\n")).toContain("the instance before goes on");

  const mended = await admin.registry.update({
    service: { name: "stays", spec: spec() },
    updateMask: { paths: ["spec.managed.environment"] },
  });
  const mendedStatus = await ready("stays", mended.revision);
  expect(mendedStatus.conditions).toEqual([]);
  expect(mendedStatus.pid).not.toBe(before.pid);
});

test("a server that is killed during an update finishes it when it is back", async () => {
  await register("halfway");
  const before = await status("halfway");
  await admin.registry.update({
    service: { name: "halfway", spec: spec({ READY_AFTER_MS: "2000" }) },
    updateMask: { paths: ["spec.managed.environment"] },
  });
  await eventually(async () => (await status("halfway")).replacement?.pid);

  await steward.crash();
  await steward.startAgain();
  admin = clientsOf("Connect with protobuf over HTTP/2", steward.addresses, steward.adminToken);

  const after = await eventually(async () => {
    const now = await status("halfway");
    return now.observedGeneration === 2n && now.retiring === undefined ? now : undefined;
  });
  expect(after).toMatchObject({ state: ServiceState.RUNNING, ready: true });
  expect(await eventually(() => visit("/services/halfway/"))).toBe(after.pid);
  expect(() => process.kill(before.pid, 0)).toThrow("ESRCH");
});
