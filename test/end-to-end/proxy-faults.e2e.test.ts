import { readdirSync, readFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ForeignProxy } from "../proxy/workbench.ts";
import { eventually } from "../support/eventually.ts";
import { startWeb, statusOf } from "./fault-scene.ts";
import { TestSteward, type TestStewardOptions } from "./harness.ts";
import { type Clients, clientsOf } from "./transports.ts";

let steward: TestSteward;
let admin: Clients;

async function start(options: TestStewardOptions): Promise<void> {
  steward = await TestSteward.start(options);
  admin = clientsOf("gRPC on the gRPC listener", steward.addresses, steward.adminToken);
}
afterEach(() => steward?.[Symbol.asyncDispose]());

const names = ["web-1", "web-2", "web-3"];
const healedWithin = { timeoutMs: 10_000 };

/** Whether the public reaches every service. */
async function allAreReached(origin: string): Promise<boolean> {
  const answers = await Promise.all(
    names.map(async (name) => {
      const response = await fetch(`${origin}/services/${name}/`);
      const { JUPYTERHUB_SERVICE_NAME } = (await response.json()) as { JUPYTERHUB_SERVICE_NAME?: string };
      return response.status === 200 && JUPYTERHUB_SERVICE_NAME === name;
    }),
  );
  return answers.every(Boolean);
}

describe("the bundled proxy", () => {
  beforeEach(() => start({ proxy: "bundled" }));

  test("that is killed is back at its port with every route within 10 s, and no service notices", async () => {
    const before = await Promise.all(names.map((name) => startWeb(admin, name)));
    const origin = steward.addresses.proxy ?? "";
    expect(await allAreReached(origin)).toBe(true);

    for (let round = 0; round < 2; round++) {
      const pid = await eventually(() => proxyOf(steward.pid));
      process.kill(pid, "SIGKILL");
      await eventually(() => proxyOf(steward.pid) !== pid);
      await eventually(() => allAreReached(origin), healedWithin);
    }

    const after = await Promise.all(names.map((name) => statusOf(admin, name)));
    expect(after.map(({ pid }) => pid)).toEqual(before.map(({ status }) => status?.pid));
  });
});

describe("a proxy of somebody else", () => {
  let proxy: ForeignProxy;
  beforeEach(async () => {
    proxy = await ForeignProxy.start();
    await start({
      flags: { "proxy-api-url": proxy.apiUrl },
      environment: { CONFIGPROXY_AUTH_TOKEN: proxy.token },
    });
  });
  const origin = () => `http://127.0.0.1:${proxy.port}`;

  test("that is killed and comes back empty has every route within 10 s, and those of others are left alone", async () => {
    const before = await Promise.all(names.map((name) => startWeb(admin, name)));
    expect(await allAreReached(origin())).toBe(true);

    await proxy.kill();
    await proxy.run();
    await proxy.put("/other", "http://127.0.0.1:9");
    await eventually(() => allAreReached(origin()), healedWithin);

    expect(Object.keys(await proxy.targets())).toContain("/other");
    const after = await Promise.all(names.map((name) => statusOf(admin, name)));
    expect(after.map(({ pid }) => pid)).toEqual(before.map(({ status }) => status?.pid));
  });

  test("that is away holds up no start, and has the route of what came meanwhile soon after it is back", async () => {
    await Promise.all(names.slice(1).map((name) => startWeb(admin, name)));
    await proxy.kill();
    await eventually(async () => steward.log.includes("the proxy is down"));

    const late = names[0] ?? "";
    const starting = startWeb(admin, late);
    const pid = await eventually(async () => (await statusOf(admin, late)).ready && (await statusOf(admin, late)).pid);
    await proxy.run();
    await eventually(() => allAreReached(origin()), healedWithin);

    expect((await starting).status?.pid).toBe(pid);
  });
});

/** The proxy that a server has started, by its parent. */
function proxyOf(parent: number): number | undefined {
  return readdirSync("/proc")
    .map(Number)
    .filter(Number.isInteger)
    .find((pid) => isChild(pid, parent) && read(pid, "cmdline").includes("configurable-http-proxy"));
}

function isChild(pid: number, parent: number): boolean {
  return read(pid, "status").includes(`\nPPid:\t${parent}\n`);
}

function read(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return "";
  }
}
