import { afterEach, describe, expect, test } from "vitest";
import { type FailPoint, failPoints } from "../../src/supervisor/fail-point.ts";
import { Trial } from "./trial.ts";

let trial: Trial;

afterEach(() => trial?.close());

/** Points that only a rolling update passes. */
const rollingPoints: ReadonlySet<FailPoint> = new Set(["promoted", "retiring"]);
const points = failPoints.filter((point) => !rollingPoints.has(point));

describe.each(points)("a supervisor that is killed at the point %s", (failPoint) => {
  test("on its way through a start, a crash, a restart and a stop leaves nothing double, lost or invented", async () => {
    trial = await Trial.open();
    await trial.startSupervisor(failPoint === "adopting" ? {} : { failPoint });
    if (failPoint === "adopting") {
      await trial.register("web");
      await trial.settled(["web"]);
      await trial.killSupervisor();
      await trial.startSupervisor({ failPoint });
    } else {
      await trial.register("web");
    }
    await liveThrough();
    await trial.supervisorEnded();

    await trial.startSupervisor();
    await trial.settled(["web"]);
    expect(await trial.faults("web")).toEqual([]);

    await trial.desk.wish("start", "web");
    await trial.settled(["web"]);
    await trial.desk.wish("stop", "web");
    await trial.settled(["web"]);
    expect(await trial.faults("web")).toEqual([]);
    expect(trial.directory.shims()).toEqual([]);
  });
});

/** Goes on until the supervisor has died on the way. */
async function liveThrough(): Promise<void> {
  const steps = [
    async () => trial.crash("web"),
    () => trial.desk.wish("restart", "web"),
    () => trial.desk.wish("stop", "web"),
    () => trial.desk.wish("start", "web"),
  ];
  for (let round = 0; trial.isSupervised; round++) {
    await Promise.race([trial.settled(["web"]), trial.supervisorEnded()]).catch(() => undefined);
    if (trial.isSupervised) await steps[round % steps.length]?.();
  }
}

describe("a second of two servers", () => {
  test("is killed at the same point again and again, and the third brings everything to its end", async () => {
    trial = await Trial.open();
    await trial.register("web");
    for (const failPoint of points.filter((point) => point !== "adopting")) {
      await trial.startSupervisor({ failPoint });
      await liveThrough();
      await trial.supervisorEnded();
    }

    await trial.startSupervisor();
    await trial.settled(["web"]);

    expect(await trial.faults("web")).toEqual([]);
  });
});
