import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { expect, test } from "vitest";
import { systemClock } from "../../src/domain/clock.ts";
import { BundledProxy, BundledProxyError } from "../../src/proxy/bundled-proxy.ts";
import { ConfigurableHttpProxy } from "../../src/proxy/configurable-http-proxy.ts";
import { RouteKeeper } from "../../src/proxy/route-keeper.ts";
import { eventually } from "../support/eventually.ts";
import { route } from "./conformance.ts";
import { anySignal, atEnd, freePort, LittleStore, listen, send, silentLog, startTarget } from "./workbench.ts";

async function stateDirectory(name = ""): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), "steward-proxy-"));
  atEnd(() => rm(root, { recursive: true, force: true }));
  const directory = join(root, name);
  await mkdir(directory, { recursive: true });
  return directory;
}

async function bundledProxy(
  more: { stateDir?: string; publicPort?: number; onReady?: () => void; checkEveryMs?: number } = {},
): Promise<BundledProxy> {
  const { stateDir = await stateDirectory(), publicPort = await freePort(), ...rest } = more;
  const proxy = new BundledProxy({ stateDir, publicPort, clock: systemClock, log: silentLog, ...rest });
  atEnd(() => proxy.stop());
  return proxy;
}

function driverOf(proxy: BundledProxy): ConfigurableHttpProxy {
  const { apiUrl: url, token } = proxy;
  const driver = new ConfigurableHttpProxy({ url, token, clock: systemClock, owner: "ours", epoch: 1 });
  atEnd(() => driver.close());
  return driver;
}

function portOf(proxy: BundledProxy): number {
  return Number(new URL(proxy.publicUrl).port);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

test("serves at the public port and is programmed through a socket in the state directory", async () => {
  const stateDir = await stateDirectory();
  const proxy = await bundledProxy({ stateDir });
  const target = await startTarget("target");

  await proxy.start();
  const driver = driverOf(proxy);
  await driver.apply({ put: [{ ...route("one", 1), target }], remove: [], lookFirst: true }, anySignal);
  const reply = await send(portOf(proxy), "GET", "/services/one/a%20b", {});

  expect(proxy.publicUrl).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
  expect(proxy.apiUrl).toBe(`unix:${stateDir}/proxy.sock`);
  expect(reply.text).toBe("target /services/one/a%20b");
});

test("uses a port of this machine for its API where the path of the socket would be too long", async () => {
  const proxy = await bundledProxy({ stateDir: await stateDirectory("x".repeat(100)) });

  await proxy.start();

  expect(proxy.apiUrl).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
  expect((await driverOf(proxy).observe(anySignal)).routes).toEqual([]);
});

test("takes any free port where none is named", async () => {
  const proxy = await bundledProxy({ publicPort: 0 });

  await proxy.start();

  expect(portOf(proxy)).toBeGreaterThan(0);
  expect((await send(portOf(proxy), "GET", "/_chp_healthz", {})).status).toBe(200);
});

test("keeps its token out of its command line and its environment free of ours", async () => {
  const proxy = await bundledProxy();
  await proxy.start();

  const commandLine = await readFile(`/proc/${proxy.pid}/cmdline`, "utf8");
  const environment = (await readFile(`/proc/${proxy.pid}/environ`, "utf8")).split("\0").filter((each) => each !== "");

  expect(commandLine).not.toContain(proxy.token);
  expect(new Set(environment.map((each) => each.split("=")[0]))).toEqual(new Set(["CONFIGPROXY_AUTH_TOKEN", "PATH"]));
});

test("names the port when somebody else has it, and leaves nothing behind", async () => {
  const stateDir = await stateDirectory();
  const server = createServer((_, response) => response.end("somebody else"));
  await listen(server);
  const { port } = server.address() as AddressInfo;
  const proxy = await bundledProxy({ stateDir, publicPort: port });

  const failure = await proxy.start().catch((error: unknown) => error);

  expect(failure).toBeInstanceOf(BundledProxyError);
  expect(String(failure)).toContain(`127.0.0.1:${port}: the port is already in use`);
  expect(proxy.isGone).toBe(true);
  expect(await readdir(stateDir)).toEqual([]);
});

test("is started again when it is killed, and its routes come back with it", async () => {
  const store = new LittleStore();
  let keeper: RouteKeeper | undefined;
  const proxy = await bundledProxy({ onReady: () => keeper?.wake() });
  await proxy.start();
  const { storeUid } = store;
  const rooms = {
    driver: driverOf(proxy),
    services: store,
    feed: store,
    facts: store,
    clock: systemClock,
    log: silentLog,
  };
  keeper = new RouteKeeper({ ...rooms, proxy: "default", storeUid, epoch: 1, isProxyGone: () => proxy.isGone });
  atEnd(() => keeper?.stop());
  const target = await startTarget("target");
  for (let index = 0; index < 100; index += 1) store.setExternal(`s-${index}`, target);
  await keeper.start();
  await eventually(() => [...store.services.values()].every((each) => each.route?.state === "programmed"));
  const { pid = 0 } = proxy;
  const startMs = performance.now();

  process.kill(pid, "SIGKILL");
  await eventually(
    async () => (await send(portOf(proxy), "GET", "/services/s-99/", {})).text === "target /services/s-99/",
  );

  expect(performance.now() - startMs).toBeLessThan(10_000);
  expect(proxy.pid).not.toBe(pid);
  expect(isAlive(pid)).toBe(false);
});

test("is replaced when it lives and does not answer", async () => {
  const proxy = await bundledProxy({ checkEveryMs: 50 });
  await proxy.start();
  const { pid = 0 } = proxy;

  process.kill(pid, "SIGSTOP");
  await eventually(() => proxy.pid !== undefined && proxy.pid !== pid, { timeoutMs: 30_000 });
  await eventually(async () => (await send(portOf(proxy), "GET", "/_chp_healthz", {})).status === 200);

  expect(isAlive(pid)).toBe(false);
});

test("ends with stop, also twice, also before it was started, and gives its port back", async () => {
  const stateDir = await stateDirectory();
  const never = await bundledProxy();
  const proxy = await bundledProxy({ stateDir });

  await never.stop();
  await proxy.start();
  const { pid = 0 } = proxy;
  await proxy.stop();
  await proxy.stop();

  expect(isAlive(pid)).toBe(false);
  expect(existsSync(join(stateDir, "proxy.sock"))).toBe(false);
  await (await bundledProxy({ publicPort: portOf(proxy) })).start();
});

test("does not outlive us when we are killed", async () => {
  const [stateDir, port] = [await stateDirectory(), await freePort()];
  const parent = spawn(
    process.execPath,
    [new URL("../fixtures/proxy-owner.ts", import.meta.url).pathname, stateDir, String(port)],
    {
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  atEnd(() => parent.kill("SIGKILL"));
  const [line] = (await once(createInterface({ input: parent.stdout }), "line")) as [string];
  const pid = Number(line);
  const wasAlive = isAlive(pid);

  parent.kill("SIGKILL");

  await eventually(() => !isAlive(pid), { timeoutMs: 5_000 });
  expect(wasAlive).toBe(true);
  await (await bundledProxy({ stateDir, publicPort: port })).start();
});
