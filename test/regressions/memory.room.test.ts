import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterEach, expect, test } from "vitest";
import { runTool } from "../../src/supervisor/spawn.ts";
import { type OwnPlane, openPlane } from "../supervisor/own-plane.ts";
import { eventually } from "../support/eventually.ts";

let own: OwnPlane;
afterEach(() => own.clear());

const mebibyte = 1024 * 1024;
setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

test("two thousand restarts leave nothing in memory, no descriptor and no file behind", {
  timeout: 600_000,
}, async () => {
  // A small ring of events is full, and so of one size, before the first look.
  own = await openPlane({ startBudget: { perSecond: 10_000, burst: 10_000 }, ringSize: 256 });
  const { plane } = own;
  const names = Array.from({ length: 20 }, (_, index) => `web-${index}`);
  for (const name of names) {
    await plane.create(name, ["true"], { restart: { baseDelayMs: 10, maxDelayMs: 10 } });
  }
  const restarted = (times: number) =>
    eventually(
      async () => {
        const services = await Promise.all(names.map((name) => plane.service(name)));
        return services.every(({ status }) => status.restarts >= times);
      },
      { timeoutMs: 560_000, everyMs: 200 },
    );

  await restarted(20);
  const before = await held();
  await restarted(120);
  const after = await held();

  expect(after.heapBytes - before.heapBytes).toBeLessThan(8 * mebibyte);
  expect(after.descriptors - before.descriptors).toBeLessThan(100);
  const live = names.length;
  await eventually(() => readdirSync(join(own.stateDirectory.path, "run")).length <= live);
});

test("whoever follows the output of a service costs nothing once it is quiet, also after its beginning was given back", async () => {
  own = await openPlane();
  const { plane } = own;
  const fifo = join(own.stateDirectory.path, "word");
  await runTool("/usr/bin/mkfifo", [fifo]);
  const flood = `yes "a line that nobody reads" | head -c ${80 * mebibyte}; echo over; read word <"${fifo}"; echo later`;
  const service = await plane.create("web", ["sh", "-c", `${flood}; exec sleep 1000`]);
  const log = join(own.stateDirectory.path, "logs", service.uid, "stdout.log");
  const follower = new AbortController();
  let seen = "";
  const following = (async () => {
    const { signal } = follower;
    const logs = plane.supervisor.logs({ service, streams: ["stdout", "stderr"], tailLines: 0, follow: true, signal });
    for await (const { data } of logs) seen = (seen + data.toString("latin1")).slice(-100);
  })();
  await eventually(() => seen.endsWith("over\n") && statSync(log).blocks * 512 < 57 * mebibyte, { timeoutMs: 50_000 });

  await eventually(() => cpuMsWithin(1_000).then((ms) => ms < 100), { timeoutMs: 40_000 });

  await runTool("/bin/sh", ["-c", `echo go >"${fifo}"`]);
  await eventually(() => seen.endsWith("later\n"));
  follower.abort();
  await following;
});

interface Held {
  readonly heapBytes: number;
  readonly descriptors: number;
}

/** What this process holds that nobody can give up. */
async function held(): Promise<Held> {
  const looks: Held[] = [];
  for (let look = 0; look < 3; look++) {
    await cpuMsWithin(100);
    collectGarbage();
    const { heapUsed, external } = process.memoryUsage();
    looks.push({ heapBytes: heapUsed + external, descriptors: readdirSync("/proc/self/fd").length });
  }
  return looks.reduce((least, look) => (look.heapBytes < least.heapBytes ? look : least));
}

/** How much this process has worked meanwhile. */
async function cpuMsWithin(ms: number): Promise<number> {
  const before = process.cpuUsage();
  await new Promise((resolve) => setTimeout(resolve, ms));
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1_000;
}
