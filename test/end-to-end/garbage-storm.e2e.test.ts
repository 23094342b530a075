import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { isRunning } from "../supervisor/state-directory.ts";
import { eventually } from "../support/eventually.ts";
import { Heap } from "../support/heap.ts";
import { external } from "./bad-requests.ts";
import type { Door } from "./fuzz/assault.ts";
import { Neighbours } from "./fuzz/neighbours.ts";
import { Storm } from "./fuzz/storm.ts";
import { TestSteward } from "./harness.ts";
import { clientsOf, transports } from "./transports.ts";

/**
 * Garbage of every kind at every door at once. STEWARD_FUZZ_SECONDS=N goes on for so long, with a seed that is printed; STEWARD_FUZZ_SEED=N does
 * the same attacks again.
 */
const seconds = Number(process.env["STEWARD_FUZZ_SECONDS"] ?? 0);
const seed = Number(process.env["STEWARD_FUZZ_SEED"] ?? (seconds > 0 ? Date.now() % 1_000_000 : 1));
/** So that each kind of attack comes to each door once, and goes on for a while where the machine is fast. */
const inSuite = { leastAttacks: 93, ms: 8_000 };
const mebibyte = 1024 * 1024;
/** What one of the newest events takes, with what of it was sent to watchers. They are bounded, and what the neighbours do is not yet that many. */
const bytesOfEvent = 4 * 1024;
/** Clients of HTTP/2 keep their connections for the next call: Connect, gRPC at the same door, and gRPC at its own. */
const keptByNeighbours = 3;

let steward: TestSteward;
let heap: Heap;

beforeAll(async () => {
  const entry = new URL("../../src/steward.ts", import.meta.url).pathname;
  steward = await TestSteward.start({ command: [process.execPath, "--inspect=127.0.0.1:0", entry] });
  heap = await Heap.of(steward.log);
});

afterAll(async () => {
  heap?.[Symbol.dispose]();
  await steward?.[Symbol.asyncDispose]();
});

test(`a storm of garbage harms nobody and leaves nothing behind (seed ${seed})`, {
  timeout: (seconds + 300) * 1000,
}, async ({ annotate }) => {
  const secret = await secretOfAttackers();
  await stormOf((number) => number < 31, secret);
  const before = await held();
  const logBefore = steward.log.length;
  const until = performance.now() + (seconds > 0 ? seconds * 1000 : inSuite.ms);
  await using neighbours = new Neighbours(steward.addresses, socketPath(), steward.adminToken);

  const storm = await stormOf((number) => number < inSuite.leastAttacks || performance.now() < until, secret);
  await neighbours.rest();
  const { revision } = await client().registry.list({});
  for (const follower of neighbours.followers) await follower.reached(revision);
  await neighbours[Symbol.asyncDispose]();
  const after = await held();

  const attacks = storm.begun;
  const newEvents = after.recentEvents - before.recentEvents;
  const logBytes = steward.log.length - logBefore;
  await annotate(JSON.stringify({ attacks, served: Object.fromEntries(neighbours.served), before, after, logBytes }));
  const told = steward.log.split("\n").filter((line) => /by a bug|uncaught|unhandled|Warning/.test(line));
  expect(told).toEqual([]);
  expect(neighbours.failures).toEqual([]);
  expect([...neighbours.served.keys()].toSorted()).toEqual([...transports, "the Unix socket"].toSorted());
  for (const { breaks, places } of neighbours.followers) {
    expect(breaks).toEqual([]);
    expect(places).toEqual(neighbours.followers[0]?.places);
  }
  expect(after.openCalls).toEqual([]);
  expect(after.connections.length).toBeLessThanOrEqual(keptByNeighbours);
  expect(after.descriptors - before.descriptors).toBeLessThan(20);
  expect(after.heapBytes - before.heapBytes).toBeLessThan(16 * mebibyte + newEvents * bytesOfEvent);
  // What is logged does not grow with what comes: some lines at once, then some a second.
  expect(logBytes).toBeLessThan(mebibyte + (seconds * mebibyte) / 100);
});

/** Resolves when it is over; tells where it was if the server did not live through it. */
async function stormOf(goesOn: (number: number) => boolean, secret: string): Promise<Storm> {
  const { pid } = steward;
  const storm = new Storm({ seed, doors: doors(), secret, goesOn: (number) => isRunning(pid) && goesOn(number) });
  await storm.rage();
  if (!isRunning(pid))
    throw new Error(`the server died (seed ${seed}, attack ${storm.begun}):\n${steward.log.slice(-5000)}`);
  return storm;
}

/** What the server holds once all who left are gone from its books. */
async function held() {
  let calls: string[] = [];
  let open: string[] = [];
  const isQuiet = async () => {
    calls = await openCalls();
    open = connections(); // that of the question itself may still be among them: then it is asked again
    return calls.length === 0 && open.length <= keptByNeighbours;
  };
  await eventually(isQuiet, { timeoutMs: 30_000, everyMs: 200 }).catch(() => undefined);
  return {
    openCalls: calls,
    connections: open,
    descriptors: readdirSync(`/proc/${steward.pid}/fd`).length,
    heapBytes: await heap.usedBytes(),
    recentEvents: await recentEvents(),
  };
}

function doors(): Door[] {
  const { connect, grpc } = steward.addresses;
  return [
    { name: "connect", place: placeOf(connect) },
    { name: "grpc", place: placeOf(grpc) },
    { name: "local", place: { path: socketPath() } },
  ];
}

function placeOf(address: string): { host: string; port: number } {
  const { hostname, port } = new URL(address);
  return { host: hostname, port: Number(port) };
}

function socketPath(): string {
  return join(steward.stateDir, "steward.sock");
}

/** Who attacks is somebody else than who works: what one may have open is not taken from the other. */
async function secretOfAttackers(): Promise<string> {
  const { registry } = client();
  await registry.create({ serviceId: "attacker", service: { spec: external({ admin: true }) } });
  return (await registry.issueToken({ service: "attacker" })).secret;
}

function client() {
  return clientsOf("Connect with JSON over HTTP/1.1", steward.addresses, steward.adminToken);
}

function openCalls(): Promise<string[]> {
  return series(/^steward_rpc_open_calls\{/);
}

/** How many events the server keeps in memory. */
async function recentEvents(): Promise<number> {
  const [line = ""] = await series(/^steward_feed_ring_events /);
  return Number(line.split(" ")[1] ?? 0);
}

/** The lines of the metrics that fit and are not 0. */
async function series(wanted: RegExp): Promise<string[]> {
  const response = await fetch(`${steward.addresses.connect}/metrics`, { headers: { connection: "close" } });
  return (await response.text()).split("\n").filter((line) => wanted.test(line) && !line.endsWith(" 0"));
}

/** Connections to the doors that the server has open, as the system sees them. */
function connections(): string[] {
  const { connect, grpc } = steward.addresses;
  const doorOf = new Map(Object.entries({ connect, grpc }).map(([name, address]) => [new URL(address).port, name]));
  const overTcp = readFileSync("/proc/net/tcp", "utf8")
    .split("\n")
    .map((line) => line.trim().split(/\s+/))
    .flatMap(([, local = "", , state = ""]) => {
      const door = doorOf.get(String(Number.parseInt(local.slice(-4), 16)));
      return door === undefined || notOpen.has(state) ? [] : [`${door}, state ${state}`];
    });
  const overSocket = readFileSync("/proc/net/unix", "utf8")
    .split("\n")
    .filter((line) => line.endsWith(socketPath()) && / 0001 03 /.test(line));
  return [...overTcp, ...overSocket];
}

// It listens, or the system alone still has to do with it (include/net/tcp_states.h).
const notOpen: ReadonlySet<string> = new Set(["0A", "04", "05", "06", "09", "0B"]);
