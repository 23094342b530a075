import { once } from "node:events";
import { connect as http2Connect } from "node:http2";
import { setImmediate } from "node:timers/promises";
import { ConnectError, createClient } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { RequestInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { Supervisor } from "../../gen/steward/v1/supervisor_pb.ts";
import { eventually } from "../support/eventually.ts";
import { loggerTo, registryClient, startRig, transportNames, transportOf } from "./rig.ts";

type Line = Record<string, unknown>;

describe.each(transportNames)("over %s", (transport) => {
  test("every line that is written during a call carries its id, whoever writes it and whatever runs beside it", async () => {
    const lines: Line[] = [];
    const log = loggerTo(lines, "trace");
    await using rig = await startRig(
      {
        list: async ({ filter }) => {
          log.info({ part: filter }, "first");
          await setImmediate();
          log.info({ part: filter }, "second");
          return {};
        },
        async *watchServices({ filter }, { signal }) {
          log.info({ part: filter }, "first");
          yield {};
          await setImmediate();
          log.info({ part: filter }, "second");
          yield {};
          signal.addEventListener("abort", () => log.info({ part: filter }, "third"), { once: true });
          await once(signal, "abort");
        },
      },
      { log },
    );
    const client = registryClient(rig, transport);
    const ids = Array.from({ length: 10 }, (_, index) => `call-number-${index}`);

    await Promise.all(ids.map((id) => client.list({ filter: id }, { headers: { "x-request-id": id } })));
    await Promise.all(
      ids.map(async (id) => {
        const leaving = new AbortController();
        const options = { headers: { "x-request-id": `${id}-s` }, signal: leaving.signal };
        const stream = client.watchServices({ filter: `${id}-s` }, options)[Symbol.asyncIterator]();
        await stream.next();
        await stream.next();
        leaving.abort();
        await stream.next().catch(() => undefined);
      }),
    );

    const written = (message: string) => lines.filter(({ msg }) => msg === message);
    await eventually(() => written("third").length === 10 && written("call").length === 20);
    expect([...written("first"), ...written("second"), ...written("third")]).toHaveLength(50);
    for (const { part, requestId, msg } of lines) if (part !== undefined) expect([msg, requestId]).toEqual([msg, part]);
    expect(lines.filter(({ requestId }) => requestId === undefined)).toEqual([]);
    expect(written("request")).toHaveLength(20);
  });

  test("the line of a call's end tells method, code, time, who and from where, and its id is the one that was answered", async () => {
    const lines: Line[] = [];
    await using rig = await startRig({}, { log: loggerTo(lines, "debug") });
    const answered: (string | null)[] = [];

    await registryClient(rig, transport).list(
      {},
      { onHeader: (headers) => answered.push(headers.get("x-request-id")) },
    );
    const failure = await failureOf(registryClient(rig, transport).get({ name: "nobody" }));
    const refused = await failureOf(registryClient(rig, transport, "").list({}));
    const unknown = await failureOf(createClient(Supervisor, transportOf(rig, transport)).start({ name: "a" }));

    await eventually(() => lines.length === 4);
    expect(lines).toMatchObject([
      { method: "/steward.v1.ServiceRegistry/List", code: "OK", principal: "operator" },
      { method: "/steward.v1.ServiceRegistry/Get", code: "NotFound", principal: "operator" },
      { method: "/steward.v1.ServiceRegistry/List", code: "Unauthenticated", principal: "anonymous" },
      { method: "/steward.v1.Supervisor/Start", code: "Unimplemented", principal: "anonymous" },
    ]);
    for (const line of lines) {
      expect(line).toMatchObject({ msg: "call", durationMs: expect.any(Number), peer: expect.stringMatching(/^127/) });
      expect(line["protocol"]).toBe(protocols[transport]);
    }
    const ids = [failure, refused, unknown].map((error) => error.metadata.get("x-request-id"));
    expect([...answered, ...ids]).toEqual(lines.map(({ requestId }) => requestId));
    for (const [index, error] of [failure, refused, unknown].entries())
      expect(error.findDetails(RequestInfoSchema)[0]?.requestId).toBe(ids[index]);
  });
});

test("who sends no id is given one, who sends one that cannot be is given another", async () => {
  await using rig = await startRig();
  const client = registryClient(rig, "gRPC");
  const given: (string | null)[] = [];
  const onHeader = (headers: Headers) => void given.push(headers.get("x-request-id"));

  await client.list({}, { onHeader });
  await client.list({}, { onHeader, headers: { "x-request-id": "7" } });
  await client.list({}, { onHeader, headers: { "x-request-id": `x"${"y".repeat(100)}` } });

  expect(given).toEqual(rig.calls.map(({ callId }) => callId));
  expect(new Set(given).size).toBe(3);
  for (const id of given) expect(id).toMatch(/^[0-9a-f-]{36}$/);
});

test.each([
  ["a content type that no protocol has", "connectPort", { ":method": "POST", "content-type": "text/plain" }, 415],
  ["a method that no call has", "connectPort", { ":method": "PUT", "content-type": "application/json" }, 405],
  ["JSON on the port for gRPC", "grpcPort", { ":method": "POST", "content-type": "application/grpc+json" }, 200],
] as const)("the id is answered to %s too", async (_, port, headers, status) => {
  await using rig = await startRig();
  const session = http2Connect(`http://127.0.0.1:${rig[port]}`);
  const stream = session.request({
    ":path": "/steward.v1.ServiceRegistry/List",
    "x-request-id": "order-4711",
    ...headers,
  });
  stream.end("{}");

  const [answer] = await once(stream, "response");

  expect([answer[":status"], answer["x-request-id"]]).toEqual([status, "order-4711"]);
  session.destroy();
});

const protocols = {
  "Connect JSON": "connect",
  "Connect protobuf": "connect",
  "gRPC-Web": "grpc_web",
  gRPC: "grpc",
  "gRPC on grpc-js": "grpc",
};

async function failureOf(outcome: Promise<unknown>): Promise<ConnectError> {
  const error = await outcome.then(
    () => undefined,
    (reason: unknown) => ConnectError.from(reason),
  );
  if (error === undefined) throw new Error("the call succeeded");
  return error;
}
