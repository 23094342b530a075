import type { StewardClient } from "../src/client.ts";
import { type Figure, figureOf, type Measure } from "./figure.ts";
import { withSteward } from "./scene.ts";

const few = 1_000;
const many = 10_000;
const pageSize = 100;

/** All services, once through, in each way in which a client can read them. */
const readings: Readonly<Record<string, (client: StewardClient) => Promise<number>>> = {
  "list by name": (client) => listAll(client, {}),
  "list by create_time desc": (client) => listAll(client, { orderBy: "create_time desc" }),
  "list with a filter that half match": (client) => listAll(client, { filter: "labels.parity = even" }),
  "snapshot of a watch": snapshot,
};

/** What one service costs of many, against what one costs of few: pages that get dearer the more there is would show. */
export const measureListing: Measure = async ({ rounds }) =>
  withSteward({}, async ({ client }) => {
    await register(client, 0, few);
    const ofFew = await perItem(client, rounds);
    await register(client, few, many);
    const ofMany = await perItem(client, rounds);
    return Object.keys(readings).map((name): Figure => {
      const [ours, bare] = [ofMany.get(name) ?? [], ofFew.get(name) ?? []];
      const results = ours.map((each, round) => ({ ours: each, bare: bare[round] ?? Number.NaN }));
      const aim = { atMost: 1.25 };
      return figureOf({ name: `${name}: a service of ${many}, of ${few}`, unit: "µs", aim }, results);
    });
  });

async function perItem(client: StewardClient, rounds: number): Promise<Map<string, number[]>> {
  const costs = new Map<string, number[]>();
  for (const [name, read] of Object.entries(readings)) {
    await read(client);
    const ofRounds: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const startedMs = performance.now();
      const count = await read(client);
      ofRounds.push(((performance.now() - startedMs) * 1_000) / count);
    }
    costs.set(name, ofRounds);
  }
  return costs;
}

async function register({ registry }: StewardClient, from: number, to: number): Promise<void> {
  const atOnce = 500;
  for (let first = from; first < to; first += atOnce) {
    const services = Array.from({ length: Math.min(atOnce, to - first) }, (_, offset) => ({
      name: `service-${first + offset}`,
      spec: {
        kind: { case: "external", value: {} } as const,
        labels: { parity: (first + offset) % 2 === 0 ? "even" : "odd" },
      },
    }));
    await registry.apply({ services });
  }
}

async function listAll(
  { registry }: StewardClient,
  request: { readonly orderBy?: string; readonly filter?: string },
): Promise<number> {
  let count = 0;
  let pageToken = "";
  do {
    const page = await registry.list({ ...request, pageSize, pageToken });
    count += page.services.length;
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  return count;
}

async function snapshot({ registry }: StewardClient): Promise<number> {
  let count = 0;
  for await (const { message } of registry.watchServices({})) {
    if (message.case === "batch") count += message.value.changes.length;
    if (message.case === "snapshotEnd") break;
  }
  return count;
}
