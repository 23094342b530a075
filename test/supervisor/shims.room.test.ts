import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { childrenOf, identify, stateOf } from "../../src/supervisor/process-identity.ts";
import { Shims } from "../../src/supervisor/shims.ts";
import type { Spawned } from "../../src/supervisor/spawn.ts";
import { eventually } from "../support/eventually.ts";
import { shells } from "./shells.ts";
import { Workbench } from "./workbench.ts";

let bench: Workbench;
let shims: Shims;
beforeEach(() => {
  bench = new Workbench();
  shims = new Shims({ place: bench.directory });
});
afterEach(async () => {
  await shims.stop();
  await bench.clear();
});

test("one is forked ahead, and the next as soon as it was taken and nothing more is started", async () => {
  shims.start();
  const first = await forkedAhead();
  const taken = shims.take();

  expect(taken.pid).toBe(first);
  expect(await forkedAhead(first)).not.toBe(first);
  await end(taken);
});

test("of several that are needed at once each is another", async () => {
  shims.start();
  await forkedAhead();
  const taken = [shims.take(), shims.take(), shims.take()];

  expect(new Set(taken.map(({ pid }) => pid)).size).toBe(3);
  await Promise.all(taken.map(end));
});

test("one that was killed while it waited is not given to anybody", async () => {
  shims.start();
  const killed = identify(await forkedAhead());
  process.kill(killed?.pid ?? 0, "SIGKILL");
  await eventually(() => killed !== undefined && stateOf(killed) === "gone");

  const taken = shims.take();

  expect(taken.pid).not.toBe(killed?.pid);
  await end(taken);
});

test("a stop leaves none, and none is forked any more", async () => {
  shims.start();
  const waiting = identify(await forkedAhead());

  await shims.stop();

  expect(waiting && stateOf(waiting)).toBe("gone");
});

test.each(shells())("under $name it takes words of any kind, on a command's way and back", async ({ path }) => {
  shims = new Shims({ place: bench.directory, shell: path(bench.directory) });
  shims.start();
  await forkedAhead();

  const launched = await bench.run(["sh", "-c", "echo here; exit 3"], { shims, name: `it's "odd"\n\\n$n \`id\` /run` });

  expect(await launched.exited).toMatchObject({ reason: "exited", code: 3 });
  expect(bench.output(launched)).toBe("here\n");
});

test("one whose words are cut short holds nothing and leaves nothing", async () => {
  const taken = shims.take();
  taken.input.end(`'${join(bench.directory, "run")}' 'and no m`);
  await taken.ended;

  expect(existsSync(join(bench.directory, "run"))).toBe(false);
});

/** The pid of a child that waits for its words, but not that of the one that was taken. */
function forkedAhead(taken?: number): Promise<number> {
  return eventually(() => {
    const self = identify(process.pid);
    return self && childrenOf(self).find((pid) => pid !== taken && isShim(pid));
  });
}

function isShim(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("holds one instance of a service");
  } catch {
    return false; // it has ended
  }
}

async function end({ input, ended }: Spawned): Promise<void> {
  input.destroy();
  await ended;
}
