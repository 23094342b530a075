import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { Health, HealthCheckResponse_ServingStatus as Status } from "../../gen/grpc/health/v1/health_pb.ts";
import { startRig, transportNames, transportOf } from "./rig.ts";

describe.each(transportNames)("over %s", (transport) => {
  test("check and list tell the server and each service", async () => {
    await using rig = await startRig();
    const client = createClient(Health, transportOf(rig, transport, ""));

    expect((await client.check({})).status).toBe(Status.SERVING);
    const { statuses } = await client.list({});
    expect(Object.keys(statuses).toSorted()).toEqual(["", "steward.v1.ServiceRegistry"]);
    const error = await client.check({ service: "nobody" }).then(() => undefined, ConnectError.from);
    expect(error?.code).toBe(Code.NotFound);
  });

  test("a watcher is told of the drain before its stream ends", async () => {
    await using rig = await startRig();
    const client = createClient(Health, transportOf(rig, transport, ""));
    const known = client.watch({ service: "steward.v1.ServiceRegistry" })[Symbol.asyncIterator]();
    const unknown = client.watch({ service: "nobody" })[Symbol.asyncIterator]();
    expect((await known.next()).value?.status).toBe(Status.SERVING);
    expect((await unknown.next()).value?.status).toBe(Status.SERVICE_UNKNOWN);

    const stopped = rig.server.stop();

    expect((await known.next()).value?.status).toBe(Status.NOT_SERVING);
    const end = await known.next().then(() => undefined, ConnectError.from);
    expect(end?.code).toBe(Code.Unavailable);
    await unknown.next().catch(() => undefined);
    await stopped;
  });
});
