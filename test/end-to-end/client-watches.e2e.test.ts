import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Event } from "../../gen/steward/v1/event_pb.ts";
import type { Service } from "../../gen/steward/v1/service_pb.ts";
import { createStewardClient, type StewardClient, StewardError, type WatchOptions } from "../../src/client.ts";
import { eventually } from "../support/eventually.ts";
import { freePort, TestSteward } from "./harness.ts";

describe.each(["connect", "grpc"] as const)("over %s, while the server is killed and started again", (protocol) => {
  let steward: TestSteward;
  let client: StewardClient;
  let ending: AbortController;

  beforeEach(async () => {
    ending = new AbortController();
    const [listen, grpcListen] = [await freePort(), await freePort()];
    const flags = { listen: `127.0.0.1:${listen}`, "grpc-listen": `127.0.0.1:${grpcListen}` };
    steward = await TestSteward.start({ flags });
    client = createStewardClient({ address: steward.addresses[protocol], token: steward.adminToken, protocol });
  });
  afterEach(async () => {
    ending.abort();
    client.close();
    await steward[Symbol.asyncDispose]();
  });

  test("watchers are told every event once and end with what List shows", async () => {
    let interruptions = 0;
    const options = { signal: ending.signal, onInterrupted: () => (interruptions += 1) };
    const events = new SeenEvents(client, options);
    const services = new SeenServices(client, options);
    await eventually(() => services.snapshots === 1);

    for (const round of ["a", "b"]) {
      const writing = createUntilRefused(client, round);
      await eventually(() => services.known.has(`${round}-5`), patiently);
      await steward.crash();
      await writing;
      await steward.startAgain();
      await client.registry.delete({ name: `${round}-0` });
    }
    const { revision } = await create(client, "last");
    await eventually(() => events.revision >= revision && services.revision >= revision, patiently);
    ending.abort();
    await Promise.all([events.ended, services.ended]);

    const logged = await allEvents(client);
    expect(events.seen.filter((event) => event.revision <= revision).map(placeOf)).toEqual(
      logged.filter((event) => event.revision <= revision).map(placeOf),
    );
    const { services: listed } = await client.registry.list({ pageSize: 1_000 });
    expect([...services.known.values()].map(stateOf).sort()).toEqual(listed.map(stateOf).sort());
    expect(services).toMatchObject({ snapshots: 1, repeated: [] });
    expect(interruptions).toBeGreaterThanOrEqual(4);
  });
});

/** A watch waits up to ten seconds before it tries again. */
const patiently = { timeoutMs: 60_000 };

class SeenEvents {
  readonly seen: Event[] = [];
  readonly ended: Promise<void>;
  revision = 0n;

  constructor(client: StewardClient, options: WatchOptions) {
    this.ended = this.#follow(client, options);
  }

  async #follow(client: StewardClient, options: WatchOptions): Promise<void> {
    for await (const update of client.watchEvents({ after: { revision: 0n } }, options)) {
      if (update.kind === "gap") throw update.error;
      if (update.kind === "events") this.seen.push(...update.events);
      this.revision = update.cursor.revision;
    }
  }
}

class SeenServices {
  readonly known = new Map<string, Service>();
  readonly repeated: string[] = [];
  readonly ended: Promise<void>;
  snapshots = 0;
  revision = 0n;

  constructor(client: StewardClient, options: WatchOptions) {
    this.ended = this.#follow(client, options);
  }

  async #follow(client: StewardClient, options: WatchOptions): Promise<void> {
    for await (const update of client.watchServices({}, options)) {
      if (update.kind === "snapshot") {
        this.snapshots += 1;
        for (const service of update.services) this.known.set(service.name, service);
      } else if (update.kind === "changes") {
        for (const { type, service } of update.changes) this.#apply(type, service);
      }
      this.revision = update.cursor.revision;
    }
  }

  #apply(type: "changed" | "gone", service: Service): void {
    const before = this.known.get(service.name);
    const isNew = type === "gone" ? before !== undefined : before === undefined || before.revision < service.revision;
    if (!isNew) this.repeated.push(service.name);
    if (type === "gone") this.known.delete(service.name);
    else this.known.set(service.name, service);
  }
}

function create(client: StewardClient, serviceId: string) {
  // Without a url nobody asks how it is, and nothing but the test changes it.
  const spec = { kind: { case: "external" as const, value: {} } };
  return client.registry.create({ serviceId, service: { spec } });
}

/** Writes for as long as there is a server. */
async function createUntilRefused(client: StewardClient, prefix: string): Promise<void> {
  try {
    for (let index = 0; ; index++) await create(client, `${prefix}-${index}`);
  } catch (error) {
    if (!(error instanceof StewardError)) throw error;
  }
}

async function allEvents(client: StewardClient): Promise<Event[]> {
  const events: Event[] = [];
  for (let pageToken = ""; ; ) {
    const page = await client.supervisor.listEvents({ pageToken, pageSize: 1_000 });
    events.push(...page.events);
    if (page.nextPageToken === "") return events;
    pageToken = page.nextPageToken;
  }
}

function placeOf({ revision, index, type, service }: Event): string {
  return `${revision}.${index} ${type} ${service}`;
}

function stateOf({ name, revision }: Service): string {
  return `${name} ${revision}`;
}
