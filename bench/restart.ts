import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { EventType } from "../gen/steward/v1/event_pb.ts";
import type { StewardClient } from "../src/client.ts";
import { Accounts } from "../src/supervisor/account.ts";
import { Births, ByHand } from "./by-hand.ts";
import { exitKnown } from "./exit-known.ts";
import { figureOf, type Measure, type Round } from "./figure.ts";
import { withSteward } from "./scene.ts";

/** Whom processes run as where a switch of users is possible. */
const user = process.getuid?.() === 0 ? "nobody" : undefined;
const samplesARound = 5;
/** A process that was ready for so long is started again at once. */
const forgivenAfterMs = 10_000;
/** What follows a start, on either side, is over by then. */
const settledAfterMs = 200;

/**
 * From the end of a process to the first instruction of the one that replaces it, which is durable before it runs, against the same shim, switch of
 * users and command started again by hand. Each process says its number on a FIFO as its first instruction.
 */
export const measureRestart: Measure = async ({ rounds }) => {
  const directory = await mkdtemp(join(tmpdir(), "steward-bench-"));
  await chmod(directory, 0o711);
  const births = await Births.open(join(directory, "births"));
  try {
    const known = await exitKnown(directory);
    return await withSteward({}, async ({ client }) => {
      const names = Array.from({ length: samplesARound * rounds }, (_, index) => `b${index}`);
      const restartPolicy = { resetAfter: { seconds: 1n } };
      for (const name of names) {
        const managed = { command: births.command(name), ...(user !== undefined && { user }), restartPolicy };
        await client.registry.create({
          serviceId: name,
          service: { spec: { kind: { case: "managed", value: managed } } },
        });
      }
      const pids = new Map<string, number>();
      for (const name of names) pids.set(name, await births.next(name));
      await everyoneForgiven(client, names.length);
      const account = user === undefined ? user : await new Accounts({ ownUid: 0, allowRoot: false }).resolve(user);
      await using byHand = new ByHand(directory, births, { account });
      await byHand.start();
      const results: Round[] = [];
      for (const name of names) {
        const startedMs = performance.now();
        process.kill(pids.get(name) ?? 0, "SIGKILL");
        await births.next(name);
        const bareMs = performance.now();
        await byHand.end();
        await byHand.start();
        results.push({ ours: bareMs - startedMs, bare: performance.now() - bareMs });
        await delay(settledAfterMs);
      }
      return [figureOf({ name: "crash to running again", unit: "ms", aim: { atMost: 1.5 } }, results), ...known];
    });
  } finally {
    births.close();
    await rm(directory, { recursive: true, force: true });
  }
};

async function everyoneForgiven(client: StewardClient, count: number): Promise<void> {
  const ready = new Set<string>();
  for await (const update of client.watchEvents({ after: { revision: 0n }, types: [EventType.INSTANCE_READY] })) {
    if (update.kind === "events") for (const { service } of update.events) ready.add(service);
    if (ready.size === count) break;
  }
  await delay(forgivenAfterMs);
}
