import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Service } from "../../src/domain/service.ts";
import { Trial } from "../supervisor/trial.ts";

/** What a restart does to a service that waits for something, as a witness outside of the server sees it. */
let trial: Trial;
beforeEach(async () => {
  trial = await Trial.open();
});
afterEach(() => trial.close());

const neverByItself = { restart: { baseDelayMs: 600_000, maxDelayMs: 600_000 } } as const;

/** Asks for ten restarts, most of them at once. */
async function restartOverAndOver(name: string): Promise<void> {
  for (let count = 0; count < 5; count++) await trial.desk.wish("restart", name);
  await Promise.all(Array.from({ length: 5 }, () => trial.desk.wish("restart", name)));
}

describe("a service that is restarted over and over while it waits", () => {
  test("for the end of its back-off runs once", async () => {
    await trial.startSupervisor();
    await trial.register("web", neverByItself);
    await trial.settled(["web"]);
    trial.crash("web");
    await trial.desk.until("web", "backing_off");

    await restartOverAndOver("web");
    await trial.settled(["web"]);

    expect(await trial.faults("web")).toEqual([]);
    expect(trial.directory.shims()).toHaveLength(1);
  });

  test("for a dependency does not start before it, and runs once when it is there", async () => {
    await trial.startSupervisor();
    await trial.register("base");
    await trial.settled(["base"]);
    await trial.desk.wish("stop", "base");
    await trial.settled(["base"]);
    await trial.register("web", { dependsOn: [{ service: "base", condition: "ready" }] });
    await trial.desk.happened("web", "service_waiting");

    await restartOverAndOver("web");
    expect(trial.lives("web")).toEqual([]);
    await trial.desk.wish("start", "base");
    await trial.settled(["base", "web"]);

    expect(trial.lives("web")).toHaveLength(1);
    expect(await trial.faults("web")).toEqual([]);
  });

  test("for its turn among many runs once, and so do they", async () => {
    await trial.startSupervisor();
    const names = Array.from({ length: 80 }, (_, index) => `web-${index}`);
    await Promise.all(names.map((name) => trial.register(name)));
    const last = "web-79";

    await restartOverAndOver(last);
    await trial.settled(names, 60_000);

    expect((await Promise.all(names.map((name) => trial.faults(name)))).flat()).toEqual([]);
    expect(trial.directory.shims()).toHaveLength(names.length);
  });
});

test("failures do not survive a restart: the first delay after it is the first of the curve", async () => {
  await trial.startSupervisor();
  await trial.register("web", { restart: { baseDelayMs: 20, maxDelayMs: 600_000, multiplier: 10 } }, 1);
  const before = await trial.desk.until("web", ({ status }) => status.failures === 4);
  expect(delayOf(before)).toBe(20_000);

  await trial.desk.wish("restart", "web");
  const [, , , , fifth] = await trial.desk.happened("web", "restart_scheduled", 5);

  expect(fifth?.after?.status).toMatchObject({ failures: 1, restarts: 0 });
  expect(fifth?.after && delayOf(fifth.after)).toBe(20);
});

/** From an end to the start that was planned for it. */
function delayOf({ status }: Service): number {
  return (status.nextStartTime?.getTime() ?? 0) - status.transitionTime.getTime();
}
