import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { EventType } from "../gen/steward/v1/event_pb.ts";
import type { StewardClient } from "../src/client.ts";
import { shimsOf } from "../test/supervisor/state-directory.ts";
import { figureOf, type Measure, median } from "./figure.ts";
import { withSteward } from "./scene.ts";

const services = 200;

/**
 * What a managed service costs beside its command: its shim, and what Steward itself grows by for it. The baseline is the smallest program there
 * is, `sleep`, started with nothing around it.
 */
export const measureMemory: Measure = () =>
  withSteward({}, async ({ steward, client }) => {
    const before = await rssKbOf(steward.pid);
    await runAll(client);
    const after = await rssKbOf(steward.pid);
    const shims = shimsOf(steward.stateDir);
    if (shims.length !== services) throw new Error(`there are ${shims.length} shims for ${services} services`);
    const shimKb = median(await Promise.all(shims.map(pssKbOf)));
    const bareKb = await bareSleepKb();
    const grownKb = (after - before) / services;
    return [
      figureOf({ name: "shim of a managed service", unit: "KB", aim: { atMost: 2 } }, [{ ours: shimKb, bare: bareKb }]),
      figureOf({ name: `shim and Steward's growth, ${services} services`, unit: "KB", aim: { atMost: 4 } }, [
        { ours: shimKb + grownKb, bare: bareKb },
      ]),
    ];
  });

async function runAll(client: StewardClient): Promise<void> {
  const specs = Array.from({ length: services }, (_, index) => ({
    name: `m${index}`,
    spec: { kind: { case: "managed" as const, value: { command: ["sleep", "1000"] } } },
  }));
  await client.registry.apply({ services: specs });
  let ready = 0;
  for await (const update of client.watchEvents({ after: { revision: 0n }, types: [EventType.INSTANCE_READY] })) {
    if (update.kind === "events") ready += update.events.length;
    if (ready >= services) return;
  }
}

async function bareSleepKb(): Promise<number> {
  const sleeps = Array.from({ length: 20 }, () => spawn("sleep", ["1000"], { stdio: "ignore" }));
  try {
    return median(await Promise.all(sleeps.map(({ pid }) => pssKbOf(pid ?? 0))));
  } finally {
    await Promise.all(sleeps.map(ended));
  }
}

async function ended(child: ChildProcess): Promise<void> {
  const exit = once(child, "exit");
  child.kill("SIGKILL");
  await exit;
}

async function rssKbOf(pid: number): Promise<number> {
  return numberIn(await readFile(`/proc/${pid}/status`, "utf8"), /^VmRSS:\s+(\d+)/m);
}

async function pssKbOf(pid: number): Promise<number> {
  return numberIn(await readFile(`/proc/${pid}/smaps_rollup`, "utf8"), /^Pss:\s+(\d+)/m);
}

function numberIn(text: string, pattern: RegExp): number {
  return Number(pattern.exec(text)?.[1]);
}
