import { create, toBinary } from "@bufbuild/protobuf";
import { GetRequestSchema, GetResponseSchema, WhoAmIRequestSchema } from "../gen/steward/v1/service_registry_pb.ts";
import { type Figure, figureOf, type Measure, type Round } from "./figure.ts";
import {
  type ConnectedCaller,
  callsWithin,
  framed,
  http1Caller,
  http2Caller,
  inFlight,
  ratesWithin,
  type Target,
} from "./load.ts";
import { BareProgram, type Scene, withSteward } from "./scene.ts";

const sliceMs = 800;

/** One protocol with one method against the bare server of that protocol. */
interface Contest {
  readonly name: string;
  readonly ours: ConnectedCaller;
  readonly bare: ConnectedCaller;
  readonly barePid: number;
  readonly aim: number;
}

/**
 * Calls per second, authentication included. Get asks the database whether something was committed since, as it is promised to be true at a
 * revision; WhoAmI is the way in and out alone. Two figures of each: by the clock, and by the CPU of the server's process, which others on the machine disturb less.
 */
export const measureUnary: Measure = ({ rounds }) =>
  withSteward({}, async (scene) => {
    const spec = { url: "http://127.0.0.1:9", kind: { case: "external" as const, value: {} } };
    for (let worker = 0; worker < inFlight; worker++) {
      await scene.client.registry.create({ serviceId: nameOf(worker), service: { spec } });
    }
    const answer = await scene.client.registry.get({ name: nameOf(0) });
    const bytes = Buffer.from(toBinary(GetResponseSchema, answer)).toString("base64");
    await using grpc = await BareProgram.start("bare-grpc", bytes);
    await using connect = await BareProgram.start("bare-connect", bytes);
    const contests = contestsOf(scene, grpc, connect);
    try {
      const figures: Figure[] = [];
      for (const contest of contests) figures.push(...(await compete(contest, scene.steward.pid, rounds)));
      return figures;
    } finally {
      for (const { ours, bare } of contests) for (const caller of [ours, bare]) caller.close();
    }
  });

function contestsOf({ steward }: Scene, grpc: BareProgram, connect: BareProgram): Contest[] {
  const authorization = `Bearer ${steward.adminToken}`;
  // Each worker asks for another service: nobody profits from being asked the same.
  const names = Array.from({ length: inFlight }, (_, worker) => nameOf(worker));
  const get = names.map((name) => toBinary(GetRequestSchema, create(GetRequestSchema, { name })));
  const getJson = names.map((name) => Buffer.from(JSON.stringify({ name })));
  const whoAmI = names.map(() => toBinary(WhoAmIRequestSchema, create(WhoAmIRequestSchema)));
  const [grpcPort, http1Port, http2Port] = [grpc.ports[0], ...connect.ports];
  const overGrpc = (origin: string, method: string, bodies: readonly Uint8Array[]): Target => ({
    ...{ origin, path: pathOf(method), body: inTurn(bodies.map(framed)) },
    headers: { "content-type": "application/grpc+proto", te: "trailers", authorization },
  });
  const overConnect = (origin: string, method: string, bodies: readonly Uint8Array[]): Target => ({
    ...{ origin, path: pathOf(method), body: inTurn(bodies.map((body) => Buffer.from(body))) },
    headers: { "content-type": "application/proto", "connect-protocol-version": "1", authorization },
  });
  const asJson = (origin: string): Target => ({
    ...{ origin, path: pathOf("Get"), body: inTurn(getJson) },
    headers: { "content-type": "application/json", "connect-protocol-version": "1", authorization },
  });
  const { addresses } = steward;
  const bareGrpc = http2Caller(overGrpc(`http://127.0.0.1:${grpcPort}`, "Get", get));
  const bareConnect = http2Caller(overConnect(`http://127.0.0.1:${http2Port}`, "Get", get));
  const bareJson = http1Caller(asJson(`http://127.0.0.1:${http1Port}`));
  return [
    {
      ...{ name: "Get over gRPC", bare: bareGrpc, barePid: grpc.pid, aim: 0.6 },
      ours: http2Caller(overGrpc(addresses.grpc, "Get", get)),
    },
    {
      ...{ name: "WhoAmI over gRPC", bare: bareGrpc, barePid: grpc.pid, aim: 0.6 },
      ours: http2Caller(overGrpc(addresses.grpc, "WhoAmI", whoAmI)),
    },
    {
      ...{ name: "Get over Connect, HTTP/2 and protobuf", bare: bareConnect, barePid: connect.pid, aim: 0.6 },
      ours: http2Caller(overConnect(addresses.connect, "Get", get)),
    },
    {
      ...{ name: "WhoAmI over Connect, HTTP/2 and protobuf", bare: bareConnect, barePid: connect.pid, aim: 0.6 },
      ours: http2Caller(overConnect(addresses.connect, "WhoAmI", whoAmI)),
    },
    {
      ...{ name: "Get over Connect, HTTP/1.1 and JSON", bare: bareJson, barePid: connect.pid, aim: 0.6 },
      ours: http1Caller(asJson(addresses.connect)),
    },
  ];
}

async function compete({ name, ours, bare, barePid, aim }: Contest, pid: number, rounds: number): Promise<Figure[]> {
  const rates: Round[] = [];
  const perCpu: Round[] = [];
  for (const caller of [ours, bare]) await callsWithin(caller, sliceMs);
  for (let round = 0; round < rounds; round++) {
    const [theirs, mine] = [await ratesWithin(bare, barePid, sliceMs), await ratesWithin(ours, pid, sliceMs)];
    rates.push({ ours: mine.perSecond, bare: theirs.perSecond });
    perCpu.push({ ours: mine.perCpuSecond, bare: theirs.perCpuSecond });
  }
  return [
    figureOf({ name, unit: "calls/s", aim: { atLeast: aim } }, rates),
    figureOf({ name: "  by the server's CPU", unit: "calls/CPU s", aim: { atLeast: aim } }, perCpu),
  ];
}

function nameOf(worker: number): string {
  return `bench-${worker}`;
}

function inTurn(bodies: readonly Buffer[]): Target["body"] {
  return (worker) => bodies[worker] ?? Buffer.alloc(0);
}

function pathOf(method: string): string {
  return `/steward.v1.ServiceRegistry/${method}`;
}
