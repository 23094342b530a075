import { readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { commandPid } from "../../../src/supervisor/instance-handle.ts";
import { notifyQuestion } from "../../../src/supervisor/probes/notify.ts";
import { eventually } from "../../support/eventually.ts";
import { shells } from "../shells.ts";
import { untilOpen, Workbench } from "../workbench.ts";

let bench: Workbench;
beforeEach(() => {
  bench = new Workbench();
});
afterEach(() => bench.clear());
const never = new AbortController().signal;

for (const shell of shells()) {
  describe(`under ${shell.name}`, () => {
    const work = () => ({ shell: shell.path(bench.directory) });

    test.each([3, 4, 5, 6, 7, 8, 9])("a line on descriptor %i says ready, and it is the only one", async (fd) => {
      const launched = await bench.run(["sh", "-c", `printf '\\n' >&${fd}; exec sleep 1000`], {
        ...work(),
        notifyFd: fd,
      });

      expect(await notifyQuestion(launched.runDir, fd).ask(never, 10_000)).toMatchObject({ kind: "yes" });
      const proc = `/proc/${await eventually(() => commandPid(launched))}`;
      // The shell that writes keeps a copy for as long as it does.
      await eventually(() => readFileSync(`${proc}/comm`, "utf8") === "sleep\n");
      await untilOpen(proc, ["0", "1", "2", String(fd)]);
      expect(readlinkSync(`${proc}/fd/${fd}`)).toBe(join(launched.runDir, "notify"));
    });

    test("a command that cannot be started says nothing", async () => {
      const launched = await bench.run(["/no/such/program"], { ...work(), notifyFd: 3 });

      expect(await launched.exited).toMatchObject({ reason: "spawn_failed" });
      expect(readFileSync(join(launched.runDir, "notify"), "utf8")).toBe("");
    });
  });
}

test("what was said before anybody asked still counts, and so it does after another server takes over", async () => {
  const launched = await bench.run(["sh", "-c", "echo READY >&5; echo done"], { notifyFd: 5 });
  await launched.exited;

  const question = notifyQuestion(launched.runDir, 5);

  expect(await question.ask(never, 1_000)).toEqual({ kind: "yes", message: "it said that it is ready" });
});

test("a word without a line end is not enough, nor is silence", async () => {
  const launched = await bench.run(["sh", "-c", "printf wait >&5; exec sleep 1000"], { notifyFd: 5 });
  await eventually(() => readFileSync(join(launched.runDir, "notify"), "utf8") === "wait");

  expect(await notifyQuestion(launched.runDir, 5).ask(never, 300)).toEqual({
    kind: "no",
    message: "no answer within 300 ms",
  });
});

test("who gives up waiting is told so by a rejection", async () => {
  const launched = await bench.run(["sleep", "1000"], { notifyFd: 5 });
  const waiting = new AbortController();
  const answer = notifyQuestion(launched.runDir, 5).ask(waiting.signal, 60_000);

  waiting.abort(new Error("enough"));

  await expect(answer).rejects.toThrow("enough");
});
