import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { commandPid } from "../../src/supervisor/instance-handle.ts";
import { currentBootId, stateOf } from "../../src/supervisor/process-identity.ts";
import { eventually } from "../support/eventually.ts";
import { shells } from "./shells.ts";
import { untilOpen, Workbench } from "./workbench.ts";

let bench: Workbench;
beforeEach(() => {
  bench = new Workbench();
});
afterEach(() => bench.clear());

/** A program that ends by its own signal, without leaving a core. */
const raise = (signal: string) => ["sh", "-c", `ulimit -c 0; kill -${signal} $$; sleep 10`];

for (const shell of shells()) {
  describe(`under ${shell.name}`, () => {
    const work = () => ({ shell: shell.path(bench.directory) });

    test.each([0, 1, 7, 126, 127, 137, 139, 143, 255])("exit code %i is recorded as a code", async (code) => {
      const launched = await bench.run(["sh", "-c", `exit ${code}`], work());

      expect(await launched.exited).toMatchObject({ reason: "exited", code, signal: undefined });
    });

    test.each(["HUP", "INT", "ABRT", "KILL", "SEGV", "PIPE", "TERM", "USR1"])(
      "SIG%s is recorded as a signal",
      async (name) => {
        const launched = await bench.run(raise(name), work());

        expect(await launched.exited).toMatchObject({ reason: "signaled", code: undefined, signal: `SIG${name}` });
      },
    );

    test("the environment is exactly what was given, whatever the values hold", async () => {
      const environment = {
        ODD: `a'b"c\\d$e\`f\n\n!*?~ \t\r\u0001\u007f\u0081é☃ `,
        EMPTY: "",
        PWD: "/given",
        HOME: "/home/x",
      };
      const launched = await bench.run(["env", "-0"], { ...work(), environment });

      expect(await launched.exited).toMatchObject({ code: 0 });
      expect(parseEnvironment(bench.output(launched))).toEqual({
        ...environment,
        PATH: "/usr/bin:/bin",
        STEWARD_INSTANCE: launched.instanceId,
      });
    });

    test("a command that does not exist or may not run is a failed spawn with its reason", async () => {
      const plain = join(bench.directory, "plain");
      writeFileSync(plain, "text", { mode: 0o644 });

      const exits = await Promise.all(
        [["/no/such/program"], ["no-such-program"], [plain]].map(
          async (argv) => (await bench.run(argv, work())).exited,
        ),
      );

      expect(exits.map(({ reason, code }) => [reason, code])).toEqual(Array(3).fill(["spawn_failed", undefined]));
      expect(exits[0]?.message).toMatch(/does not exist/);
      expect(exits[1]?.message).toMatch(/does not exist/);
      expect(exits[2]?.message).toMatch(/may not be executed/);
    });

    test("a directory that is not there is a failed spawn, and the command did not run", async () => {
      const launched = await bench.run(["sh", "-c", "echo ran"], { ...work(), cwd: "/no/such/directory" });

      expect(await launched.exited).toMatchObject({
        reason: "spawn_failed",
        message: expect.stringMatching(/directory/),
      });
      expect(bench.output(launched)).toBe("");
    });

    test("a launch that is abandoned ran nothing and leaves nothing", async () => {
      const witness = join(bench.directory, "witness");
      const launched = await bench.launch(["touch", witness], work());

      await launched.abandon();

      expect(await launched.exited).toMatchObject({ reason: "spawn_failed" });
      expect(stateOf(launched.identity)).not.toBe("alive");
      expect(existsSync(witness)).toBe(false);
    });
  });
}

test("nothing runs before the release, and the identity is known by then", async () => {
  const witness = join(bench.directory, "witness");
  const launched = await bench.launch(["touch", witness]);
  await eventually(() => existsSync(join(launched.runDir, "stage")));

  expect(launched.identity).toEqual({
    bootId: currentBootId(),
    pid: expect.any(Number),
    startTime: expect.stringMatching(/^\d+$/),
  });
  expect(existsSync(witness)).toBe(false);
  expect(commandPid(launched)).toBeUndefined();

  await launched.release();
  await launched.exited;
  expect(existsSync(witness)).toBe(true);
});

test("the command has one process under the shim, whose pid is known", async () => {
  const launched = await bench.run(["sh", "-c", "echo $$; exec sleep 1000"]);
  const printed = await eventually(() => bench.output(launched).trim() || undefined);

  expect(commandPid(launched)).toBe(Number(printed));
  expect(readFileSync(`/proc/${printed}/stat`, "utf8").split(" ")[5]).toBe(String(launched.identity.pid));
});

test("the command inherits /dev/null and two append-only files, nothing else, and signals as by default", async () => {
  const launched = await bench.run(["sh", "-c", "echo here; exec sleep 1000"]);
  await eventually(() => bench.output(launched) !== "");
  const proc = `/proc/${commandPid(launched)}`;
  await eventually(() => read(`${proc}/cmdline`).startsWith("sleep"));

  await untilOpen(proc, ["0", "1", "2"]);
  expect(readlinkSync(`${proc}/fd/0`)).toBe("/dev/null");
  expect(readlinkSync(`${proc}/fd/2`)).toBe(`${launched.runDir}.stderr`);
  expect(Number.parseInt(/flags:\s*(\d+)/.exec(read(`${proc}/fdinfo/1`))?.[1] ?? "", 8) & 0o2000).toBe(0o2000);
  expect(read(`${proc}/status`).match(/^Sig(?:Blk|Ign|Cgt):\t0+$/gm)).toHaveLength(3);
});

test("files are made without rights for others, and a relative command is found from its directory", async () => {
  const cwd = join(bench.directory, "app");
  mkdirSync(cwd);
  writeFileSync(join(cwd, "run.sh"), "#!/bin/sh\numask; pwd; touch made\n", { mode: 0o755 });
  const launched = await bench.run(["./run.sh"], { cwd });

  expect(await launched.exited).toMatchObject({ code: 0 });
  expect(bench.output(launched)).toBe(`0027\n${cwd}\n`);
});

test("a bare command without PATH is looked for in the usual places, and PATH stays unset", async () => {
  const launched = await bench.launchWithoutPath(["env", "-0"]);
  await launched.release();

  expect(await launched.exited).toMatchObject({ code: 0 });
  expect(parseEnvironment(bench.output(launched))).toEqual({ STEWARD_INSTANCE: launched.instanceId });
});

test("an environment of a megabyte arrives whole", async () => {
  const environment = Object.fromEntries(
    Array.from({ length: 10 }, (_, index) => [`BIG_${index}`, "é'".repeat(30_000)]),
  );
  const launched = await bench.run(["env", "-0"], { environment });

  expect(await launched.exited).toMatchObject({ code: 0 });
  expect(parseEnvironment(bench.output(launched))).toMatchObject(environment);
});

test("whatever the values, the command sees those and no other", async () => {
  const value = fc.string({ unit: "binary", maxLength: 40 }).map((text) => text.replaceAll("\0", "").toWellFormed());
  const name = fc.stringMatching(/^[A-Z_][A-Z0-9_]{0,8}$/).filter((text) => text !== "OPTIND" && text !== "PATH");

  await fc.assert(
    fc.asyncProperty(fc.dictionary(name, value, { maxKeys: 6, noNullPrototype: true }), async (environment) => {
      const launched = await bench.run(["/usr/bin/env", "-0"], { environment });
      expect(await launched.exited).toMatchObject({ code: 0 });
      expect(parseEnvironment(bench.output(launched))).toEqual({
        PATH: "/usr/bin:/bin",
        ...environment,
        STEWARD_INSTANCE: launched.instanceId,
      });
    }),
    { numRuns: 40 },
  );
});

test("a name that the shell cannot set is a failed spawn that says so", async () => {
  const launched = await bench.run(["true"], { environment: { OPTIND: "not a number" } });

  const exit = await launched.exited;
  if (exit.reason !== "exited") expect(exit).toMatchObject({ reason: "spawn_failed", message: /variables/ });
});

test("no argument list ever shows a value of the environment", async () => {
  const secret = "sesame-4711-open";
  let looks = 0;
  for (let round = 0; round < 10; round++) {
    const launched = await bench.launch(["sleep", "0.02"], { environment: { SECRET: secret } });
    let over = false;
    const end = launched.exited.then(() => (over = true));
    void launched.release();
    for (; !over; looks++) {
      expect(commandLines(launched.identity.pid).filter((line) => line.includes(secret))).toEqual([]);
      expect(environOf(launched.identity.pid)).not.toContain(secret);
      await new Promise(setImmediate);
    }
    await end;
  }
  expect(looks).toBeGreaterThan(50);
});

test("the end is known within milliseconds", async () => {
  const launched = await bench.run(["sleep", "1000"]);
  const pid = await eventually(() => commandPid(launched));

  const start = performance.now();
  process.kill(pid, "SIGKILL");
  expect(await launched.exited).toMatchObject({ reason: "signaled", signal: "SIGKILL" });
  expect(performance.now() - start).toBeLessThan(500);
});

test("a shim that was killed takes its service along, and the exit is lost rather than invented", async () => {
  const launched = await bench.run(["sleep", "1000"]);
  const pid = await eventually(() => commandPid(launched));

  process.kill(launched.identity.pid, "SIGKILL");

  expect(await launched.exited).toMatchObject({ reason: "lost", code: undefined, signal: undefined });
  await eventually(() => !existsSync(`/proc/${pid}/environ`) || environOf(pid) === "");
});

test("the shim survives every signal to its group that ends the command", async () => {
  const launched = await bench.run(["sleep", "1000"]);
  await eventually(() => commandPid(launched));

  process.kill(-launched.identity.pid, "SIGALRM");

  expect(await launched.exited).toMatchObject({ reason: "signaled", signal: "SIGALRM" });
});

test("a request that no process can be given is refused before anything is made", async () => {
  await expect(bench.launch(["a\0b"])).rejects.toMatchObject({ code: "invalid_argument" });
  await expect(bench.launch([""])).rejects.toMatchObject({ code: "invalid_argument" });
  await expect(bench.launch(["true"], { environment: { "A=B": "" } })).rejects.toMatchObject({
    code: "invalid_argument",
  });
  await expect(bench.launch(["true"], { environment: { A: "\0" } })).rejects.toMatchObject({
    code: "invalid_argument",
  });
  await expect(bench.launch(["true"], { cwd: "relative" })).rejects.toMatchObject({ code: "invalid_argument" });

  expect(readdirSync(bench.directory)).toEqual([]);
});

function parseEnvironment(text: string): Record<string, string> {
  const entries = text.split("\0").slice(0, -1);
  return Object.fromEntries(
    entries.map((entry) => [entry.slice(0, entry.indexOf("=")), entry.slice(entry.indexOf("=") + 1)]),
  );
}

function commandLines(from: number): string[] {
  const pids = readdirSync("/proc").filter((name) => Number(name) >= from);
  return pids.map((pid) => read(`/proc/${pid}/cmdline`));
}

function environOf(pid: number): string {
  return read(`/proc/${pid}/environ`);
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
