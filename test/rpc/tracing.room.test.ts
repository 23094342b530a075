import { once } from "node:events";
import { constants, connect as http2Connect } from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import { context, propagation, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { W3CTraceContextPropagator } from "@opentelemetry/core";
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  type ReadableSpan,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import {
  goodSecret,
  type RegistryHandlers,
  registryClient,
  startRig,
  type TransportName,
  transportNames,
} from "./rig.ts";

const exporter = new InMemorySpanExporter();
const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
const traceId = "0af7651916cd43dd8448eb211c80319c";
const parentId = "b7ad6b7169203331";
const traced = { headers: { traceparent: `00-${traceId}-${parentId}-01` } };

beforeAll(() => {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  propagation.setGlobalPropagator(new W3CTraceContextPropagator());
  trace.setGlobalTracerProvider(provider);
});

beforeEach(() => exporter.reset());

afterAll(async () => {
  trace.disable();
  propagation.disable();
  context.disable();
  await provider.shutdown();
});

describe.each(transportNames)("over %s", (transport) => {
  test("a call is a span of the client's trace, with what the conventions want to know", async () => {
    await using rig = await startRig();

    await registryClient(rig, transport).list({}, traced);

    const span = await only("steward.v1.ServiceRegistry/List");
    expect(span.kind).toBe(SpanKind.SERVER);
    expect(span.spanContext().traceId).toBe(traceId);
    expect(span.parentSpanContext).toMatchObject({ spanId: parentId, isRemote: true });
    expect(span.attributes).toEqual({
      "rpc.system": transport.startsWith("Connect") ? "connect_rpc" : "grpc",
      "rpc.service": "steward.v1.ServiceRegistry",
      "rpc.method": "List",
      "network.peer.address": "127.0.0.1",
      "network.peer.port": Number(rig.calls[0]?.peer.split(":")[1]),
      "steward.request_id": rig.calls[0]?.callId,
      ...codeOf(transport, 0),
    });
    expect(span.status).toEqual({ code: SpanStatusCode.UNSET });
  });

  test("a failure of the client leaves the span without fault, a bug of the server does not", async () => {
    await using rig = await startRig({
      list: async () => {
        throw new Error("a bug");
      },
    });
    const client = registryClient(rig, transport);

    await failureOf(client.get({ name: "nobody" }));
    await failureOf(client.list({}));

    const notFound = await only("steward.v1.ServiceRegistry/Get");
    expect(notFound.attributes).toMatchObject(codeOf(transport, Code.NotFound));
    expect(notFound.status.code).toBe(SpanStatusCode.UNSET);
    const internal = await only("steward.v1.ServiceRegistry/List");
    expect(internal.attributes).toMatchObject(codeOf(transport, Code.Internal));
    expect(internal.status.code).toBe(SpanStatusCode.ERROR);
    expect(internal.status.message).not.toContain("a bug");
  });

  test("a call that is refused at the gate is a span too, of a stream as well", async () => {
    await using rig = await startRig();

    await failureOf(registryClient(rig, transport, "").watchServices({}, traced)[Symbol.asyncIterator]().next());

    const span = await only(watch);
    expect(span.attributes).toMatchObject(codeOf(transport, Code.Unauthenticated));
    expect(span.spanContext().traceId).toBe(traceId);
  });

  test("the span of a stream ends when the stream ends: in order, by a failure, by the client, at the deadline", async () => {
    const { promise: released, resolve: release } = Promise.withResolvers<void>();
    await using rig = await startRig({
      async *watchServices({ filter }, { signal }) {
        yield {};
        if (filter === "order") await released;
        else if (filter === "failure") throw new Error("a bug");
        else await once(signal, "abort");
      },
    });
    const client = registryClient(rig, transport);

    const inOrder = client.watchServices({ filter: "order" }, traced)[Symbol.asyncIterator]();
    await inOrder.next();
    expect(exporter.getFinishedSpans()).toEqual([]);
    release();
    await inOrder.next();
    expect((await only(watch)).attributes).toMatchObject(codeOf(transport, 0));

    exporter.reset();
    const failing = client.watchServices({ filter: "failure" })[Symbol.asyncIterator]();
    await failing.next();
    await failureOf(failing.next());
    expect((await only(watch)).attributes).toMatchObject(codeOf(transport, Code.Internal));

    exporter.reset();
    const leaving = new AbortController();
    const left = client.watchServices({}, { signal: leaving.signal })[Symbol.asyncIterator]();
    await left.next();
    expect(exporter.getFinishedSpans()).toEqual([]);
    leaving.abort();
    await failureOf(left.next());
    expect((await only(watch)).attributes).toMatchObject(codeOf(transport, Code.Canceled));

    exporter.reset();
    const [header, value] = transport.startsWith("Connect") ? ["connect-timeout-ms", "100"] : ["grpc-timeout", "100m"];
    const late = client.watchServices({}, { headers: { [header]: value } })[Symbol.asyncIterator]();
    await late.next();
    await failureOf(late.next());
    expect((await only(watch)).attributes).toMatchObject(codeOf(transport, Code.DeadlineExceeded));
  });

  test("the span of a stream ends with the drain", async () => {
    await using rig = await startRig({ watchServices: endless });
    const stream = registryClient(rig, transport).watchServices({})[Symbol.asyncIterator]();
    await stream.next();

    await Promise.all([rig.server.stop(), failureOf(stream.next())]);

    const span = await only(watch);
    expect(span.attributes).toMatchObject(codeOf(transport, Code.Unavailable));
    expect(span.status.code).toBe(SpanStatusCode.ERROR);
  });

  test("what a handler opens is below the span of its call, in a stream at every message", async () => {
    const tracer = trace.getTracer("handler");
    await using rig = await startRig({
      list: async () => {
        await Promise.resolve();
        tracer.startSpan("list").end();
        return {};
      },
      async *watchServices() {
        tracer.startSpan("first").end();
        yield {};
        await Promise.resolve();
        tracer.startSpan("second").end();
        yield {};
      },
    });
    const client = registryClient(rig, transport);

    await client.list({}, traced);
    for await (const _ of client.watchServices({}, traced));

    for (const [above, below] of [
      ["steward.v1.ServiceRegistry/List", ["list"]],
      [watch, ["first", "second"]],
    ] as const) {
      const { spanId } = (await only(above)).spanContext();
      for (const name of below) expect((await only(name)).parentSpanContext?.spanId).toBe(spanId);
    }
  });

  test("who does not want to be traced is not, and neither is what is below", async () => {
    await using rig = await startRig({
      list: async () => {
        trace.getTracer("handler").startSpan("list").end();
        return {};
      },
    });
    const client = registryClient(rig, transport);

    await client.list({}, { headers: { traceparent: `00-${traceId}-${parentId}-00` } });
    await client.list({}, traced);

    await only("steward.v1.ServiceRegistry/List");
    await only("list");
  });
});

test.each([
  ["the Connect port", "connectPort"],
  ["the port for gRPC", "grpcPort"],
] as const)("a stream that is reset, or whose connection is cut, ends its span, on %s", async (_, port) => {
  await using rig = await startRig({ watchServices: endless });
  const session = http2Connect(`http://127.0.0.1:${rig[port]}`);
  session.on("error", () => undefined);
  const open = async () => {
    const stream = session.request({
      ":method": "POST",
      ":path": `/${watch}`,
      "content-type": "application/grpc",
      authorization: `Bearer ${goodSecret}`,
    });
    stream.on("error", () => undefined);
    stream.end(Buffer.from([0, 0, 0, 0, 0]));
    await once(stream, "data");
    return stream;
  };

  (await open()).close(constants.NGHTTP2_CANCEL);
  expect((await only(watch)).attributes).toMatchObject({ "rpc.grpc.status_code": Code.Canceled });

  exporter.reset();
  await open();
  session.destroy();
  expect((await only(watch)).attributes).toMatchObject({ "rpc.grpc.status_code": Code.Canceled });
});

const watch = "steward.v1.ServiceRegistry/WatchServices";

const endless: RegistryHandlers["watchServices"] = async function* (_request, { signal }) {
  yield {};
  await once(signal, "abort");
};

/** The one span of this name that has ended. */
async function only(name: string): Promise<ReadableSpan> {
  await eventually(() => exporter.getFinishedSpans().some((span) => span.name === name));
  const [span, ...others] = exporter.getFinishedSpans().filter((each) => each.name === name);
  if (span === undefined || others.length > 0) throw new Error(`${others.length + 1} spans are named ${name}`);
  return span;
}

/** How the conventions want a code told: a number in gRPC, a name in Connect, where success has none. */
function codeOf(transport: TransportName, code: Code | 0): Record<string, unknown> {
  if (!transport.startsWith("Connect")) return { "rpc.grpc.status_code": code };
  return code === 0 ? {} : { "rpc.connect_rpc.error_code": new ConnectError("", code).message.slice(1, -1) };
}

async function failureOf(outcome: Promise<unknown>): Promise<void> {
  const error = await outcome.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error === undefined) throw new Error("the call succeeded");
}
