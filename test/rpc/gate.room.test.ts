import { once } from "node:events";
import { connect as http2Connect, type IncomingHttpHeaders } from "node:http2";
import { connect } from "node:net";
import { Code, ConnectError } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { eventually } from "../support/eventually.ts";
import { goodSecret, type Rig, registryClient, startRig, transportNames } from "./rig.ts";

let rig: Rig;

beforeAll(async () => {
  rig = await startRig();
});

afterAll(() => rig[Symbol.asyncDispose]());

describe.each(transportNames)("over %s", (transport) => {
  test("a call with a token is answered, and its handler knows the caller", async () => {
    const response = await registryClient(rig, transport).list({});

    expect(response.revision).toBe(7n);
    expect(rig.calls.at(-1)?.principal.name).toBe("operator");
    expect(rig.calls.at(-1)?.method).toBe("/steward.v1.ServiceRegistry/List");
    expect(rig.calls.at(-1)?.peer).toMatch(/^127\.0\.0\.1:\d+$/);
  });

  test("no token and a wrong token are refused", async () => {
    const handled = rig.calls.length;

    expect(await refusalOf(registryClient(rig, transport, "").list({}))).toEqual(["Unauthenticated", "TOKEN_MISSING"]);
    expect(await refusalOf(registryClient(rig, transport, "sts_wrong").list({}))).toEqual([
      "Unauthenticated",
      "TOKEN_INVALID",
    ]);
    expect(rig.calls.length).toBe(handled);
  });

  test("a stream without a token is refused", async () => {
    const [first] = [registryClient(rig, transport, "").watchServices({})[Symbol.asyncIterator]()];

    expect(await refusalOf(first.next())).toEqual(["Unauthenticated", "TOKEN_MISSING"]);
  });

  test("the header may say token instead of Bearer, in any case", async () => {
    for (const scheme of ["token", "BEARER", "Token"]) {
      const response = await registryClient(rig, transport, "").list(
        {},
        { headers: { authorization: `${scheme} ${goodSecret}` } },
      );
      expect(response.revision).toBe(7n);
    }
  });

  test("a cookie or another scheme is no token", async () => {
    const cookie = { headers: { cookie: `token=${goodSecret}` } };
    const basic = { headers: { authorization: `Basic ${goodSecret}` } };

    expect(await refusalOf(registryClient(rig, transport, "").list({}, cookie))).toEqual([
      "Unauthenticated",
      "TOKEN_MISSING",
    ]);
    expect(await refusalOf(registryClient(rig, transport, "").list({}, basic))).toEqual([
      "Unauthenticated",
      "TOKEN_INVALID",
    ]);
  });
});

describe("over HTTP/1.1 a caller without a token is answered before it sends its body", () => {
  const head = [
    "POST /steward.v1.ServiceRegistry/List HTTP/1.1",
    "host: steward",
    "content-type: application/json",
    "content-length: 1000000",
    "",
    "",
  ].join("\r\n");

  test("and the connection is good for another call once the body was sent", async () => {
    await using caller = await dial(rig.connectPort);
    caller.socket.write(head);
    await caller.received(/HTTP\/1\.1 401/);
    caller.socket.write(Buffer.alloc(1_000_000, " "));
    caller.socket.write("GET /healthz HTTP/1.1\r\nhost: steward\r\n\r\n");

    await caller.received(/HTTP\/1\.1 200/);
  });

  test.each([
    ["does not come", { restMs: 100 }, 0],
    ["is longer than anybody reads for nothing", { restBytes: 100_000 }, 900_000],
  ])("and the connection ends when the body %s", async (_, limits, bytes) => {
    await using strict = await startRig({}, { limits });
    await using caller = await dial(strict.connectPort);
    caller.socket.write(head);
    await caller.received(/HTTP\/1\.1 401/);
    caller.socket.write(Buffer.alloc(bytes));

    await caller.closed;
  });
});

test.each([
  [
    "Connect",
    "connectPort",
    "application/proto",
    (headers: IncomingHttpHeaders) => String(headers[":status"]) === "401",
  ],
  ["gRPC on the Connect port", "connectPort", "application/grpc", isUnauthenticated],
  ["gRPC on its own port", "grpcPort", "application/grpc", isUnauthenticated],
] as const)(
  "over HTTP/2, %s: a caller without a token is answered before it sends its body",
  async (_name, port, type, check) => {
    const session = http2Connect(`http://127.0.0.1:${rig[port]}`);
    const stream = session.request({
      ":method": "POST",
      ":path": "/steward.v1.ServiceRegistry/List",
      "content-type": type,
      te: "trailers",
    });
    const answer = Promise.race([once(stream, "trailers"), once(stream, "response")]);
    stream.resume();

    const [headers] = await answer;
    const trailers =
      headers["grpc-status"] === undefined && type === "application/grpc" ? await once(stream, "trailers") : [headers];

    expect(check(trailers[0])).toBe(true);
    session.destroy();
  },
);

test("an id that the client gives names the call everywhere", async () => {
  let seen: string | null = null;
  await registryClient(rig, "gRPC on grpc-js").list(
    {},
    { headers: { "x-request-id": "order-4711" }, onHeader: (headers) => (seen = headers.get("x-request-id")) },
  );

  expect(rig.calls.at(-1)?.callId).toBe("order-4711");
  expect(seen).toBe("order-4711");
});

test("tokens never reach the log", async () => {
  await registryClient(rig, "gRPC", "sts_verysecretindeed")
    .list({})
    .catch(() => undefined);

  expect(rig.log.some(({ code }) => code === "Unauthenticated")).toBe(true);
  expect(JSON.stringify(rig.log)).not.toContain("sts_");
});

/** A bare connection, and what came over it. */
async function dial(port: number) {
  const socket = connect(port, "127.0.0.1");
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  // A connection that the server ends while we write is reset.
  socket.on("error", () => undefined);
  let text = "";
  socket.on("data", (chunk: Buffer) => (text += chunk.toString("latin1")));
  await once(socket, "connect");
  return {
    socket,
    closed,
    received: (expected: RegExp) => eventually(() => expected.test(text)),
    [Symbol.asyncDispose]: async () => {
      socket.destroy();
      await closed;
    },
  };
}

function isUnauthenticated(headers: IncomingHttpHeaders): boolean {
  return String(headers["grpc-status"]) === String(Code.Unauthenticated);
}

async function refusalOf(outcome: Promise<unknown>): Promise<[string, string | undefined]> {
  const error = await outcome.then(
    () => undefined,
    (error) => ConnectError.from(error),
  );
  if (error === undefined) throw new Error("the call was not refused");
  return [Code[error.code] ?? "", error.findDetails(ErrorInfoSchema)[0]?.reason];
}
