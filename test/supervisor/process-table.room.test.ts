import { spawn } from "node:child_process";
import { once } from "node:events";
import { expect, test } from "vitest";
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
  } finally {
    child.kill("SIGKILL");
    await once(child, "exit");
  }
});
