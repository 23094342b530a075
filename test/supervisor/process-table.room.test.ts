import { spawn } from "node:child_process";
import { once } from "node:events";
import { setImmediate as nextTurn } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { instanceMarker } from "../../src/supervisor/environment.ts";
import { readStat } from "../../src/supervisor/process-identity.ts";
import { ProcessTable } from "../../src/supervisor/process-table.ts";

test("tells the markers of those that are not older than asked, for whoever of its callers asks for the oldest", async () => {
  const child = spawn("sleep", ["1000"], { env: { [instanceMarker]: "mine" }, stdio: "ignore" });
  await once(child, "spawn");
  try {
    const started = Number(readStat(child.pid ?? 0)?.startTime);
    const markedWhen = async (...since: number[]) => {
      const table = new ProcessTable();
      const scans = await Promise.all(since.map((each) => table.scan(each)));
      return scans.map((processes) => processes.marked("mine").map(({ pid }) => pid));
    };

    expect(await markedWhen(started)).toEqual([[child.pid]]);
    expect(await markedWhen(started + 1)).toEqual([[]]);
    expect(await markedWhen(started + 1, started)).toEqual([[child.pid], [child.pid]]);
    const table = new ProcessTable();
    const markedNow = async (since: number) => (await table.scan(since)).marked("mine").map(({ pid }) => pid);
    expect([await markedNow(started + 1), await markedNow(started), await markedNow(started + 1)]).toEqual([
      [],
      [child.pid],
      [],
    ]);
  } finally {
    child.kill("SIGKILL");
    await once(child, "exit");
  }
});

test("it rests after a scan that several asked for, so that who asks meanwhile shares the next", async () => {
  const table = new ProcessTable();
  using _clock = scanThatSeemsToTake(1000);
  const [scan, same] = [table.scan(0), table.scan(0)];
  await scan;

  const next = table.scan(0);
  await nextTurn();

  expect(same).toBe(scan);
  expect(next).not.toBe(scan);
  expect(table.scan(0)).toBe(next);
  await next;
});

test("after a scan that one asked for it does not rest", async () => {
  const table = new ProcessTable();
  using _clock = scanThatSeemsToTake(60_000);
  await table.scan(0);

  const next = table.scan(0);
  await nextTurn();

  expect(table.scan(0)).not.toBe(next);
  await next;
});

/** The table reads the clock twice before it looks at anything: for its rest, and at its beginning. */
function scanThatSeemsToTake(ms: number): Disposable {
  const clock = vi.spyOn(performance, "now").mockReturnValue(ms).mockReturnValueOnce(0).mockReturnValueOnce(0);
  return { [Symbol.dispose]: () => clock.mockRestore() };
}
