import { randomUUID } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { EventType } from "../../gen/steward/v1/event_pb.ts";
import { ServiceState } from "../../gen/steward/v1/service_pb.ts";
import { LogStream, WaitCondition } from "../../gen/steward/v1/supervisor_pb.ts";
import { isRunning, shimsOf } from "../supervisor/state-directory.ts";
import { eventually } from "../support/eventually.ts";
import { drain, external, managed } from "./bad-requests.ts";
import { EventFollower, wholeLog } from "./event-follower.ts";
import { exitOf, startObedient, startSleeper, statusOf } from "./fault-scene.ts";
import { TestSteward } from "./harness.ts";
import { type Refusal, refusalOf } from "./refusal.ts";
import { type Clients, clientsOf, type TransportName, transports } from "./transports.ts";

let steward: TestSteward;
let followers: EventFollower[];

const as = (transport: TransportName) => clientsOf(transport, steward.addresses, steward.adminToken);
const admin = () => as("gRPC on the gRPC listener");

beforeEach(async () => {
  followers = [];
  steward = await TestSteward.start({ keepServices: true });
});
afterEach(async () => {
  for (const follower of followers) await follower[Symbol.asyncDispose]();
  await steward?.[Symbol.asyncDispose]();
});

function followEverywhere(): void {
  for (const transport of transports) followers.push(new EventFollower(() => as(transport)));
}

/** That the log is dense, and that each follower was told all of it, once and in order. */
async function expectNoGap(): Promise<EventFollower> {
  const log = await wholeLog(admin);
  const last = log.events.at(-1)?.revision ?? 0n;
  await Promise.all(followers.map((follower) => follower.reached(last)));
  for (const { places } of followers) expect(places.slice(0, log.places.length)).toEqual(log.places);
  return log;
}

describe("after kill -9 of the server", () => {
  test("services run on with the same process, and what ended meanwhile is told with its true code", async () => {
    const names = ["one", "two"];
    const before = await Promise.all(names.map((name) => startSleeper(admin(), name)));
    const obedient = await startObedient(steward, admin(), "obedient");
    const killed = await startObedient(steward, admin(), "killed");
    followEverywhere();

    await steward.crash();
    await obedient.exit(42);
    process.kill(killed.pid, "SIGKILL");
    await eventually(() => !isRunning(killed.pid));
    expect(before.map(({ status }) => isRunning(status?.pid ?? 0))).toEqual([true, true]);
    await steward.startAgain();

    const after = await Promise.all(names.map((name) => statusOf(admin(), name)));
    expect(after).toEqual(before.map(({ status }) => status));
    expect(await exitOf(admin(), "obedient")).toMatchObject({ code: 42, signal: "", requested: false });
    expect(await exitOf(admin(), "killed")).toMatchObject({ signal: "SIGKILL", requested: false });
    const { events } = await expectNoGap();
    const adopted = events.filter(({ type }) => type === EventType.INSTANCE_ADOPTED);
    expect(adopted.map(({ service }) => service).sort()).toEqual(names);
  });

  test.each([20, 80])(
    "in the middle of 100 writes, %i of them answered, nothing is lost, doubled or half made",
    async (enough) => {
      const running = await startSleeper(admin(), "running");
      followEverywhere();
      const writes = Array.from({ length: 100 }, (_, index) => write(index));
      const answered = new Map<string, { uid: string; revision: bigint }>();
      const reached = Promise.withResolvers<void>();
      const queue = writes.values();
      const work = async (clients: Clients) => {
        for (const request of queue) {
          const { service, revision } = await clients.registry.create(request);
          answered.set(request.serviceId, { uid: service?.uid ?? "", revision });
          if (answered.size === enough) reached.resolve();
        }
      };

      const workers = Promise.allSettled(Array.from({ length: 10 }, (_, index) => work(as(transportAt(index)))));
      await reached.promise;
      await steward.crash();
      await workers;
      const acknowledged = new Map(answered);
      expect(acknowledged.size).toBeLessThan(writes.length);
      await steward.startAgain();

      const found = await everything();
      for (const [name, { uid }] of acknowledged) expect(found.get(name)?.uid, name).toBe(uid);
      const log = await expectNoGap();
      const created = log.events.filter(({ type }) => type === EventType.SERVICE_CREATED);
      expect(created.map(({ service }) => service).sort()).toEqual([...found.keys()].sort());
      for (const { service, revision } of created)
        expect(acknowledged.get(service)?.revision ?? revision, service).toBe(revision);
      expect((await statusOf(admin(), "running")).pid).toBe(running.status?.pid);

      for (const request of writes) await admin().registry.create(request);
      const after = await everything();
      expect([...after.keys()].sort()).toEqual(["running", ...writes.map(({ serviceId }) => serviceId)].sort());
      for (const [name, { uid }] of found) expect(after.get(name)?.uid, name).toBe(uid);
      await untilOneProcessEach();
      await expectNoGap();
    },
  );
});

describe("when the server is told to stop while streams are open", () => {
  test("each ends with the word to come back, services run on, and watchers resume without a gap", async () => {
    const { status: before } = await startSleeper(admin(), "running");
    followEverywhere();
    const { revision } = await admin().registry.list({});
    await Promise.all(followers.map((follower) => follower.reached(revision)));
    const ends = transports.flatMap((transport) => openCalls(as(transport)));
    await eventually(async () => (await callsUnderWay()) === followers.length + ends.length);

    expect(await steward.stop()).toBe(0);

    for (const refusal of await Promise.all(ends))
      expect(refusal).toMatchObject({ code: "Unavailable", reason: "SERVER_DRAINING", mayRetry: true });
    expect(isRunning(before?.pid ?? 0)).toBe(true);
    await steward.startAgain();
    expect((await statusOf(admin(), "running")).pid).toBe(before?.pid);
    await expectNoGap();
    for (const { breaks } of followers) expect(breaks[0]).toMatchObject({ reason: "SERVER_DRAINING", mayRetry: true });
  });
});

const transportAt = (index: number): TransportName => transports[index % transports.length] ?? transports[0];

/** Every fifth is a process. */
function write(index: number) {
  const spec = index % 5 === 0 ? managed({ command: ["sleep", "1000"] }) : external({ labels: { index: `${index}` } });
  return { serviceId: `x-${index}`, requestId: randomUUID(), service: { spec } };
}

async function everything() {
  const { services } = await admin().registry.list({ pageSize: 1_000 });
  return new Map(services.map((service) => [service.name, service]));
}

/** Resolves once each managed service runs, and nothing runs that is of none. */
async function untilOneProcessEach(): Promise<void> {
  await eventually(
    async () => {
      const managedOnes = [...(await everything()).values()].filter(({ spec }) => spec?.kind.case === "managed");
      for (const { name, status } of managedOnes) {
        if (status?.state !== ServiceState.RUNNING || !isRunning(status.pid)) throw new Error(`${name} does not run`);
      }
      return shimsOf(steward.stateDir).length === managedOnes.length;
    },
    { timeoutMs: 30_000 },
  );
}

/** A watch, the following of an output, and a wait; how they end. */
function openCalls({ registry, supervisor }: Clients): Promise<Refusal>[] {
  const logs = supervisor.streamLogs({ name: "running", streams: [LogStream.STDOUT], follow: true });
  const wait = supervisor.wait({ name: "running", condition: WaitCondition.STOPPED, timeout: { seconds: 600n } });
  return [drain(registry.watchServices({})), drain(logs), wait].map(refusalOf);
}

/** As the server itself counts them. */
async function callsUnderWay(): Promise<number> {
  const response = await fetch(`${steward.addresses.connect}/metrics`, {
    headers: { authorization: `Bearer ${steward.adminToken}` },
  });
  const counts = [...(await response.text()).matchAll(/^steward_rpc_open_calls\S* (\d+)$/gm)];
  return counts.reduce((sum, [, count]) => sum + Number(count), 0);
}
