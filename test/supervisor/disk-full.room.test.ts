import { appendFileSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { systemClock } from "../../src/domain/clock.ts";
import { DiskWatch } from "../../src/supervisor/disk-watch.ts";
import { commandPid } from "../../src/supervisor/instance-handle.ts";
import { readOutput } from "../../src/supervisor/output.ts";
import { OutputKeeper } from "../../src/supervisor/output-keeper.ts";
import { readKept } from "../../src/supervisor/output-kept.ts";
import { eventually } from "../support/eventually.ts";
import { type OwnPlane, openPlane } from "./own-plane.ts";
import { shells } from "./shells.ts";
import { SmallDisk } from "./small-disk.ts";
import { Workbench } from "./workbench.ts";

const mebibyte = 1024 * 1024;
const noMount = "not allowed to mount a small file system";

describe("with a state directory on a small disk", () => {
  let own: OwnPlane;
  let disk: SmallDisk | undefined;
  beforeEach(async () => {
    own = await openPlane();
    disk = SmallDisk.mount(own.stateDirectory.path, 8);
  });
  afterEach(async () => {
    await own.clear(() => disk?.unmount());
  });

  test("a full disk costs no exit, is told, and what is written goes on when it is not full any more", async (context) => {
    if (disk === undefined) return context.skip(noMount);
    const { plane, stateDirectory } = own;
    const watch = new DiskWatch({
      directory: stateDirectory.path,
      reserveBytes: mebibyte,
      clock: systemClock,
      facts: plane.store.facts,
      tell: (risk) => plane.supervisor.tellOutputRisk(risk),
      onFailure: (error) => plane.failures.push(error),
    });
    await watch.start();
    try {
      const never = { restart: { mode: "never" } } as const;
      await plane.create("code", ["sh", "-c", "trap 'exit 42' TERM; while :; do sleep 0.05; done"], never);
      await plane.create("signal", ["sleep", "1000"], never);
      await plane.create("ticker", ["sh", "-c", "while :; do echo tick; sleep 0.02; done"]);
      for (const name of ["code", "signal", "ticker"]) await plane.until(name, ({ status }) => status.ready);
      await eventually(async () => (await plane.output("ticker")) !== "");

      disk.fill();
      await eventually(() => disk?.freeBytes === 0 || (disk?.fill(), false));
      await plane.until("ticker", ({ status }) => status.conditions.some(({ type }) => type === "output_at_risk"));
      for (const [name, signal] of [
        ["code", "SIGTERM"],
        ["signal", "SIGKILL"],
      ] as const) {
        process.kill((await plane.service(name)).status.pid ?? 0, signal);
      }

      const code = await plane.until("code", ({ status }) => status.lastExit !== undefined);
      expect(code.status.lastExit).toMatchObject({ reason: "exited", code: 42 });
      const signal = await plane.until("signal", ({ status }) => status.lastExit !== undefined);
      expect(signal.status.lastExit).toMatchObject({ reason: "signaled", signal: "SIGKILL" });

      disk.free();
      const length = (await plane.output("ticker")).length;
      await eventually(async () => (await plane.output("ticker")).length > length);
      await plane.until("ticker", ({ status }) => status.conditions.length === 0);
      const told = await eventually(async () => {
        const types = (await plane.store.events.readAfter(0n, 10_000)).map(({ body }) => body.type);
        return types.includes("disk_freed") && types.filter((type) => type.startsWith("disk_"));
      });
      expect(told).toEqual(["disk_full", "disk_freed"]);
      expect((await plane.service("ticker")).status.state).toBe("running");
      await plane.wish("start", "code");
      await plane.until("code", ({ status }) => status.ready);
    } finally {
      await watch.stop();
    }
  });
});

describe("with its run directory on a small disk", () => {
  let bench: Workbench;
  let disk: SmallDisk | undefined;
  beforeEach(() => {
    bench = new Workbench();
    disk = SmallDisk.mount(bench.directory, 4);
  });
  afterEach(async () => {
    await bench.clear(() => disk?.unmount());
  });

  test.for(shells())(
    "under $name codes and signals are told apart when the disk has filled",
    async ({ path }, context) => {
      if (disk === undefined) return context.skip(noMount);
      const work = { shell: path(bench.directory) };
      const exits = await bench.run(["sh", "-c", "trap 'exit 137' TERM; echo up; while :; do sleep 0.05; done"], work);
      const dies = await bench.run(["sleep", "1000"], work);
      await eventually(() => bench.output(exits) === "up\n");
      const pids = await Promise.all([exits, dies].map((each) => eventually(() => commandPid(each))));

      disk.fill();
      process.kill(pids[0] ?? 0, "SIGTERM");
      process.kill(pids[1] ?? 0, "SIGKILL");

      expect(await exits.exited).toMatchObject({ reason: "exited", code: 137 });
      expect(await dies.exited).toMatchObject({ reason: "signaled", signal: "SIGKILL" });
    },
  );
});

describe("on a small disk", () => {
  let directory: string;
  let disk: SmallDisk | undefined;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "steward-small-"));
    disk = SmallDisk.mount(directory, 8);
  });
  afterEach(() => {
    disk?.unmount();
    rmSync(directory, { recursive: true, force: true });
  });

  test("output that filled the disk is given back, without space for it", async (context) => {
    if (disk === undefined) return context.skip(noMount);
    const path = join(directory, "stdout");
    const failures: unknown[] = [];
    const keeper = new OutputKeeper({
      keepBytes: mebibyte,
      onBeginAnew: (_, reason) => failures.push(reason),
      onFailure: (_, error) => failures.push(error),
    });
    await keeper.keep(path);
    const line = `${"x".repeat(4095)}\n`;
    disk.fill(3 * mebibyte);
    for (let free = disk.freeBytes; free > 0; free -= line.length) appendFileSync(path, line);
    expect(disk.freeBytes).toBe(0);

    await eventually(() => statSync(path).blocks * 512 <= 1.25 * mebibyte);
    await eventually(async () => (await readKept(path)).head >= 1.5 * mebibyte);
    appendFileSync(path, "the end\n");
    await keeper.stop();

    const { signal } = new AbortController();
    const request = { stdoutPath: path, stderrPath: join(directory, "none"), streams: ["stdout"] as const };
    const chunks = await Array.fromAsync(readOutput({ ...request, follow: false, signal }));
    expect(chunks.at(-1)?.data.toString().endsWith("the end\n")).toBe(true);
    expect(chunks.some(({ data }) => data.includes(0))).toBe(false);
    expect(failures.filter((failure) => !String(failure).includes("ENOSPC"))).toEqual([]);
  });
});
