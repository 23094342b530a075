import { once } from "node:events";
import { Agent, get } from "node:http";
import { connect as http2Connect } from "node:http2";
import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { setImmediate as nextTurn } from "node:timers/promises";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { ErrorInfoSchema, RetryInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { Health, HealthCheckResponse_ServingStatus as Status } from "../../gen/grpc/health/v1/health_pb.ts";
import { eventually } from "../support/eventually.ts";
import { goodSecret, registryClient, startRig, transportNames, transportOf } from "./rig.ts";

describe.each(transportNames)("over %s", (transport) => {
  test("a call in flight finishes, a new one is UNAVAILABLE", async () => {
    const { promise: released, resolve: release } = Promise.withResolvers<void>();
    await using rig = await startRig({
      list: async () => {
        await released;
        return { revision: 8n };
      },
    });
    const client = registryClient(rig, transport);
    const inFlight = client.list({});
    await eventually(() => rig.calls.length === 1);

    const stopped = rig.server.stop();
    await eventually(async () => {
      const error = await client.get({ name: "x" }).then(() => undefined, ConnectError.from);
      return error?.code === Code.Unavailable;
    });
    release();

    expect((await inFlight).revision).toBe(8n);
    await stopped;
  });

  test("a stream ends as UNAVAILABLE with the time to come back", async () => {
    await using rig = await startRig({
      async *watchServices(_request, { signal }) {
        yield { cursor: { revision: 1n } };
        await once(signal, "abort");
      },
    });
    const stream = registryClient(rig, transport).watchServices({})[Symbol.asyncIterator]();
    await stream.next();

    const stopped = rig.server.stop();
    const error = await stream.next().then(() => undefined, ConnectError.from);

    expect(error?.code).toBe(Code.Unavailable);
    expect(error?.findDetails(ErrorInfoSchema)[0]?.reason).toBe("SERVER_DRAINING");
    expect(error?.findDetails(RetryInfoSchema).length).toBe(1);
    await stopped;
  });

  test("first health says so, while calls are still answered, then they are refused and streams end", async () => {
    await using rig = await startRig(
      {
        async *watchServices(_request, { signal }) {
          yield { cursor: { revision: 1n } };
          await once(signal, "abort");
        },
      },
      { drain: { noticeMs: 1000, graceMs: 500 } },
    );
    const health = createClient(Health, transportOf(rig, transport, ""))
      .watch({})
      [Symbol.asyncIterator]();
    await health.next();
    const client = registryClient(rig, transport);
    const stream = client.watchServices({})[Symbol.asyncIterator]();
    await stream.next();
    let hasEnded = false;
    const end = stream.next().then(() => undefined, ConnectError.from);
    void end.then(() => (hasEnded = true));

    const stopped = rig.server.stop();
    const told = await health.next();
    const answer = await client.list({});
    const hadEnded = hasEnded;
    const ended = await end;
    const refused = await client.list({}).then(() => undefined, ConnectError.from);

    expect(told.value?.status).toBe(Status.NOT_SERVING);
    expect(answer.revision).toBe(7n);
    expect(hadEnded).toBe(false);
    expect(ended?.findDetails(ErrorInfoSchema)[0]?.reason).toBe("SERVER_DRAINING");
    expect(refused?.code).toBe(Code.Unavailable);
    await health.next().catch(() => undefined);
    await stopped;
  });

  test("whatever is called while the server goes is answered or UNAVAILABLE, never a bug", async () => {
    await using rig = await startRig(
      {
        async *watchServices(_request, { signal }) {
          yield { cursor: { revision: 1n } };
          await once(signal, "abort");
        },
      },
      { drain: { noticeMs: 100, graceMs: 500 } },
    );
    const client = registryClient(rig, transport);
    const seen = new Set<string>();
    let hasStopped = false;
    const call = async (): Promise<void> => {
      while (!hasStopped) {
        const unary = await client.list({}).then(() => undefined, ConnectError.from);
        seen.add(unary === undefined ? "OK" : (Code[unary.code] ?? "?"));
        const stream = client.watchServices({})[Symbol.asyncIterator]();
        let error: ConnectError | undefined;
        while (error === undefined) error = await stream.next().then(() => undefined, ConnectError.from);
        seen.add(Code[error.code] ?? "?");
      }
    };
    const callers = Array.from({ length: 8 }, call);
    await eventually(() => rig.calls.length > 8);

    await rig.server.stop();
    hasStopped = true;
    await Promise.all(callers);

    expect([...seen].sort()).toEqual(["OK", "Unavailable"]);
  });

  test("a client that reads no further and never goes holds up nothing", async () => {
    await using rig = await startRig(
      {
        async *watchServices(_request, { signal }) {
          for (let revision = 1n; revision <= 5n; revision++) yield { cursor: { revision } };
          await once(signal, "abort");
        },
      },
      { drain: { noticeMs: 0, graceMs: 100 } },
    );
    const stream = registryClient(rig, transport).watchServices({})[Symbol.asyncIterator]();
    await stream.next();
    await stream.return?.();

    await rig.server.stop();
  });

  test("a deaf handler is answered for when the grace is over", async () => {
    await using rig = await startRig(
      { list: () => new Promise(() => undefined) },
      { drain: { noticeMs: 0, graceMs: 200 } },
    );
    const inFlight = registryClient(rig, transport)
      .list({})
      .then(() => undefined, ConnectError.from);
    await eventually(() => rig.calls.length === 1);

    await rig.server.stop();

    const error = await inFlight;
    expect(error?.code).toBe(Code.Unavailable);
    expect(error?.findDetails(ErrorInfoSchema)[0]?.reason).toBe("SERVER_DRAINING");
    expect(rig.calls[0]?.signal.aborted).toBe(true);
  });
});

test("first it says so and still answers, then it refuses, then the ports are free", async () => {
  await using rig = await startRig({}, { drain: { noticeMs: 500, graceMs: 1000 } });
  const url = `http://127.0.0.1:${rig.connectPort}`;
  const client = registryClient(rig, "Connect JSON");

  const stopped = rig.server.stop();

  const ready = await fetch(`${url}/readyz`);
  expect([ready.status, await ready.text()]).toEqual([503, "draining\n"]);
  expect((await client.list({})).revision).toBe(7n);
  await stopped;
  await expect(fetch(`${url}/healthz`)).rejects.toThrow();
  await using again = await startRig({}, { connect: { port: rig.connectPort }, grpc: { port: rig.grpcPort } });
  expect(again.connectPort).toBe(rig.connectPort);
});

test("a client of HTTP/1.1 that goes on with its connection when a stream has ended is told to go elsewhere", async () => {
  await using rig = await startRig({
    async *watchServices(_request, { signal }) {
      yield { cursor: { revision: 1n } };
      await once(signal, "abort");
    },
  });
  using agent = new KeptConnection();
  const stream = registryClient(rig, "Connect protobuf").watchServices({})[Symbol.asyncIterator]();
  await stream.next();
  expect(await agent.get(rig.connectPort, "/healthz")).toEqual([200, "keep-alive"]);

  const stopped = rig.server.stop();
  await stream.next().catch(() => undefined);
  for (let turn = 0; turn < 10; turn++) await nextTurn();

  expect(await agent.get(rig.connectPort, "/readyz")).toEqual([503, "close"]);
  expect(agent.connections).toBe(1);
  await stopped;
});

test("connections that wait to be taken when the server goes are not reset", async () => {
  await using rig = await startRig();
  const clients = Array.from({ length: 20 }, () => connect(rig.connectPort, "127.0.0.1"));
  const answers = clients.map(async (client) => {
    client.write("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    return await text(client);
  });
  await Promise.all(clients.map((client) => once(client, "connect")));

  await rig.server.stop();

  for (const answer of await Promise.all(answers)) expect(answer).toMatch(/^HTTP\/1.1 200 /);
});

test.each(["connectPort", "grpcPort"] as const)("every connection gets a GOAWAY, on %s", async (port) => {
  await using rig = await startRig();
  const session = http2Connect(`http://127.0.0.1:${rig[port]}`);
  await once(session, "connect");
  const goneAway = once(session, "goaway");

  const stopped = rig.server.stop();

  const [code] = await goneAway;
  expect(code).toBe(0);
  await stopped;
  await eventually(() => session.destroyed);
});

test("a stalled reader does not hold the server up", async () => {
  await using rig = await startRig({
    async *watchServices(_request, { signal }) {
      while (!signal.aborted) yield { cursor: { storeUid: "x".repeat(10_000) } };
    },
  });
  for (const port of [rig.connectPort, rig.grpcPort]) {
    const session = http2Connect(`http://127.0.0.1:${port}`);
    session.on("error", () => undefined);
    const stream = session.request({
      ":method": "POST",
      ":path": "/steward.v1.ServiceRegistry/WatchServices",
      "content-type": "application/grpc",
      authorization: `Bearer ${goodSecret}`,
    });
    stream.on("error", () => undefined);
    stream.end(Buffer.from([0, 0, 0, 0, 0]));
  }
  await eventually(() => rig.calls.length === 2);

  const begun = performance.now();
  await rig.server.stop();

  expect(performance.now() - begun).toBeLessThan(10_000);
  expect(rig.calls.every(({ signal }) => signal.aborted)).toBe(true);
});

test("calls before the server is open are UNAVAILABLE, and stopping twice or before the start is fine", async () => {
  const rig = await startRig();
  await Promise.all([rig.server.stop(), rig.server.stop()]);
  await rig.server.stop();
});

/** One connection of HTTP/1.1 that a client keeps for its next request. */
class KeptConnection extends Agent {
  connections = 0;

  constructor() {
    super({ keepAlive: true, maxSockets: 1 });
  }

  override createConnection(...options: Parameters<Agent["createConnection"]>) {
    this.connections += 1;
    return super.createConnection(...options);
  }

  /** The status of a page, and what its answer says of the connection. */
  async get(port: number, path: string): Promise<[number | undefined, string | undefined]> {
    const [response] = await once(get({ port, path, agent: this }), "response");
    response.resume();
    await once(response, "close");
    return [response.statusCode, response.headers.connection];
  }

  [Symbol.dispose](): void {
    this.destroy();
  }
}
