import { type ClientHttp2Session, type ClientHttp2Stream, constants, connect as http2Connect } from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { RetryInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { type WatchServicesResponse, WatchServicesResponseSchema } from "../../gen/steward/v1/service_registry_pb.ts";
import { AppError } from "../../src/domain/errors.ts";
import { type CallContext, Shared } from "../../src/rpc/handler.ts";
import { eventually } from "../support/eventually.ts";
import {
  authenticate,
  goodSecret,
  openCalls,
  type RegistryHandlers,
  type Rig,
  registryClient,
  startRig,
  transportNames,
} from "./rig.ts";

describe.each(transportNames)("over %s", (transport) => {
  test("messages arrive in order, shared ones too, and the end is OK", async () => {
    await using rig = await startRig({
      async *watchServices() {
        for (let revision = 0; revision < 500; revision += 1) yield message(revision);
        yield new Shared(WatchServicesResponseSchema, () => message(500));
      },
    });

    const received: number[] = [];
    for await (const response of registryClient(rig, transport).watchServices({})) received.push(revisionOf(response));

    expect(received).toEqual(Array.from({ length: 501 }, (_, index) => index));
  });

  test("messages that are shared and large, or not shared, keep their places among those that are written at once", async () => {
    const shared = new Shared(WatchServicesResponseSchema, () => message(1));
    const large = new Shared(WatchServicesResponseSchema, () => message(2, "x".repeat(100_000)));
    await using rig = await startRig({
      async *watchServices() {
        for (let turn = 0; turn < 50; turn += 1) yield* [shared, shared, large, message(3), shared];
        throw new AppError("unavailable", "SERVER_DRAINING", "that was all");
      },
    });

    const received: number[] = [];
    const error = await drainInto(registryClient(rig, transport).watchServices({}), received);

    expect(received).toEqual(Array.from({ length: 50 }, () => [1, 1, 2, 3, 1]).flat());
    expect(error).toMatchObject({ code: Code.Unavailable, rawMessage: "that was all" });
  });

  test("a stream of shared messages goes no faster than its client reads", async () => {
    const large = new Shared(WatchServicesResponseSchema, () => message(1, "x".repeat(1_000_000)));
    let sent = 0;
    await using rig = await startRig({
      async *watchServices() {
        for (; sent < 500; sent += 1) yield large;
      },
      list: async () => ({ services: [], revision: BigInt(sent) }),
    });
    const client = registryClient(rig, transport);
    const controller = new AbortController();
    const stream = client.watchServices({}, { signal: controller.signal })[Symbol.asyncIterator]();
    await stream.next();

    const { revision } = await client.list({});
    controller.abort();
    await stream.next().catch(() => undefined);

    expect(revision).toBeLessThan(100n);
    await eventually(() => rig.calls[0]?.signal.aborted);
  });

  test("a failure in the middle arrives after the messages before it", async () => {
    await using rig = await startRig({
      async *watchServices() {
        yield message(1);
        throw new Error("a bug");
      },
    });

    const received: number[] = [];
    const error = await drainInto(registryClient(rig, transport).watchServices({}), received);

    expect(received).toEqual([1]);
    expect(error.code).toBe(Code.Internal);
  });

  test("a client that cancels a stream aborts the handler's signal", async () => {
    await using rig = await startRig({ watchServices: endless });
    const controller = new AbortController();
    const stream = registryClient(rig, transport)
      .watchServices({}, { signal: controller.signal })
      [Symbol.asyncIterator]();
    await stream.next();

    controller.abort();
    await stream.next().catch(() => undefined);

    await eventually(() => rig.calls[0]?.signal.aborted);
  });

  test("a client that cancels a unary call aborts the handler's signal", async () => {
    await using rig = await startRig({ list: untilAborted });
    const controller = new AbortController();
    const outcome = registryClient(rig, transport)
      .list({}, { signal: controller.signal })
      .catch(() => undefined);
    await eventually(() => rig.calls.length === 1);

    controller.abort();
    await outcome;

    await eventually(() => rig.calls[0]?.signal.aborted);
  });

  test("a deadline ends a deaf handler's call and its signal", async () => {
    await using rig = await startRig({ list: () => new Promise(() => undefined) });

    const error = await registryClient(rig, transport)
      .list({}, { timeoutMs: 100 })
      .then(
        () => undefined,
        (error) => ConnectError.from(error),
      );

    expect(error?.code).toBe(Code.DeadlineExceeded);
    await eventually(() => rig.calls[0]?.signal.aborted);
    // The client may have given up a moment before the time was over here.
    await eventually(() => rig.calls[0]?.timeoutMs() === 0);
  });

  test("the longest deadline does not overflow", async () => {
    await using rig = await startRig();
    const header = transport.startsWith("Connect")
      ? { "connect-timeout-ms": "9999999999" }
      : { "grpc-timeout": "99999999H" };

    const response = await registryClient(rig, transport).list({}, { headers: header });

    expect(response.revision).toBe(7n);
    expect(rig.calls[0]?.timeoutMs()).toBeGreaterThan(24 * 86_400_000);
  });

  test("a deadline that is none is refused", async () => {
    await using rig = await startRig();
    const name = transport.startsWith("Connect") ? "connect-timeout-ms" : "grpc-timeout";

    const error = await registryClient(rig, transport)
      .list({}, { headers: { [name]: "soon" } })
      .then(
        () => undefined,
        (error) => ConnectError.from(error),
      );

    expect(error?.code).toBe(Code.InvalidArgument);
  });
});

test.each(transportNames)("over %s the server itself ends a stream at its deadline", async (transport) => {
  await using rig = await startRig({ watchServices: endless });
  const name = transport.startsWith("Connect") ? "connect-timeout-ms" : "grpc-timeout";
  const value = transport.startsWith("Connect") ? "200" : "200m";

  const error = await drainInto(registryClient(rig, transport).watchServices({}, { headers: { [name]: value } }), []);

  expect(error.code).toBe(Code.DeadlineExceeded);
  expect(rig.calls[0]?.signal.aborted).toBe(true);
});

describe.each([
  ["Connect", "connectPort", "application/connect+proto"],
  ["gRPC-Web", "connectPort", "application/grpc-web+proto"],
  ["gRPC on the Connect port", "connectPort", "application/grpc"],
  ["gRPC on its own port", "grpcPort", "application/grpc"],
] as const)("%s: a reader that stalls parks the handler, and it is released by", (_name, port, type) => {
  test.each<[what: string, end: (parked: Parked) => unknown]>([
    ["a client that resets the stream", ({ stream }) => stream.close(constants.NGHTTP2_CANCEL)],
    ["a client that closes its connection", ({ session }) => session.destroy()],
    ["a connection that breaks", ({ session }) => session.socket.resetAndDestroy()],
    ["a token that ends", ({ rig }) => rig.server.recheckStreams()],
    ["a server that stops", ({ rig }) => rig.server.stop()],
  ])("%s", async (_what, end) => {
    let sent = 0;
    let isKnown = true;
    await using rig = await startRig(
      {
        async *watchServices() {
          for (;;) {
            yield message(sent);
            sent += 1;
          }
        },
      },
      {
        limits: { lastWordsMs: 200 },
        authenticate: (secret) => {
          if (!isKnown) throw new AppError("unauthenticated", "TOKEN_REVOKED", "the token was revoked");
          return authenticate(secret);
        },
      },
    );
    const session = http2Connect(`http://127.0.0.1:${rig[port]}`);
    session.on("error", () => undefined);
    const stream = session.request({
      ":method": "POST",
      ":path": "/steward.v1.ServiceRegistry/WatchServices",
      "content-type": type,
      authorization: `Bearer ${goodSecret}`,
    });
    stream.on("error", () => undefined);
    stream.end(Buffer.from([0, 0, 0, 0, 0]));
    await eventually(() => sent > 20);
    let last = -1;
    await eventually(
      () => {
        const isParked = last === sent;
        last = sent;
        return isParked;
      },
      { everyMs: 100 },
    );

    isKnown = false;
    const ended = end({ rig, session, stream });

    await eventually(() => rig.calls[0]?.signal.aborted);
    await eventually(async () => (await openCalls(rig)) === 0);
    session.destroy();
    await ended;
  });
});

test.each(transportNames)("over %s a client that reads on after its stream was ended reads why", async (transport) => {
  let isKnown = true;
  await using rig = await startRig(
    {
      async *watchServices() {
        for (let revision = 0; ; revision += 1) yield message(revision);
      },
    },
    {
      authenticate: (secret) => {
        if (!isKnown) throw new AppError("unauthenticated", "TOKEN_REVOKED", "the token was revoked");
        return authenticate(secret);
      },
    },
  );
  const stream = registryClient(rig, transport).watchServices({});
  const messages = stream[Symbol.asyncIterator]();
  await messages.next();

  isKnown = false;
  rig.server.recheckStreams();

  const error = await drainInto({ [Symbol.asyncIterator]: () => messages }, []);
  expect(error.code).toBe(Code.Unauthenticated);
});

test("a thousand clients that hang up at once leave no line in the log and no open call", async () => {
  await using rig = await startRig({ watchServices: endless });
  const sessions = Array.from({ length: 10 }, () => http2Connect(`http://127.0.0.1:${rig.connectPort}`));
  for (const session of sessions) {
    session.on("error", () => undefined);
    for (let index = 0; index < 100; index += 1) openWatch(session);
  }
  await eventually(() => rig.calls.length === 1000, { timeoutMs: 30_000 });

  for (const session of sessions) session.destroy();

  await eventually(async () => (await openCalls(rig)) === 0, { timeoutMs: 30_000 });
  expect(rig.log).toEqual([]);
});

test("one principal cannot take more streams than its share", async () => {
  await using rig = await startRig({ watchServices: endless }, { limits: { streamsPerPrincipal: 2 } });
  const client = registryClient(rig, "gRPC on grpc-js");
  const controller = new AbortController();
  await client.watchServices({})[Symbol.asyncIterator]().next();
  await client.watchServices({}, { signal: controller.signal })[Symbol.asyncIterator]().next();

  const refused = await drainInto(client.watchServices({}), []);
  expect(refused.code).toBe(Code.ResourceExhausted);
  expect(refused.findDetails(RetryInfoSchema).length).toBe(1);

  controller.abort();
  await eventually(async () => (await openCalls(rig)) === 1);
  const third = client.watchServices({})[Symbol.asyncIterator]();
  expect((await third.next()).done).toBe(false);
});

test("many calls on one connection warn of no leaked listener", async () => {
  const warnings: Error[] = [];
  const note = (warning: Error) => warnings.push(warning);
  process.on("warning", note);
  await using rig = await startRig({ watchServices: endless });
  for (const transport of transportNames) {
    const client = registryClient(rig, transport);
    const controller = new AbortController();
    const streams = Array.from({ length: 30 }, () =>
      client.watchServices({}, { signal: controller.signal })[Symbol.asyncIterator](),
    );
    await Promise.all(streams.map((stream) => stream.next()));
    await Promise.all(streams.map((stream) => stream.next()));
    controller.abort();
    await eventually(async () => (await openCalls(rig)) === 0);
  }
  process.off("warning", note);

  expect(warnings.map(({ message: text }) => text)).toEqual([]);
});

/** A stream whose client does not read, once the server no longer writes. */
interface Parked {
  readonly rig: Rig;
  readonly session: ClientHttp2Session;
  readonly stream: ClientHttp2Stream;
}

const filler = "x".repeat(1000);

function message(revision: number, storeUid = filler) {
  const cursor = { storeUid, revision: BigInt(revision) };
  return { cursor, message: { case: "progress" as const, value: {} } };
}

function revisionOf({ cursor }: WatchServicesResponse): number {
  return Number(cursor?.revision);
}

const endless: RegistryHandlers["watchServices"] = async function* (_request, { signal }) {
  yield message(1);
  yield message(2);
  await aborted(signal);
};

const untilAborted: RegistryHandlers["list"] = async (_request, context) => {
  await aborted(context.signal);
  return {};
};

function aborted(signal: CallContext["signal"]): Promise<void> {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

async function drainInto(stream: AsyncIterable<WatchServicesResponse>, received: number[]): Promise<ConnectError> {
  try {
    for await (const response of stream) received.push(revisionOf(response));
  } catch (error) {
    return ConnectError.from(error);
  }
  throw new Error("the stream ended without an error");
}

function openWatch(session: ReturnType<typeof http2Connect>): void {
  const stream = session.request({
    ":method": "POST",
    ":path": "/steward.v1.ServiceRegistry/WatchServices",
    "content-type": "application/grpc",
    authorization: `Bearer ${goodSecret}`,
  });
  stream.on("error", () => undefined);
  stream.end(Buffer.from([0, 0, 0, 0, 0]));
  stream.resume();
}
