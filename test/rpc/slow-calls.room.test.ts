import { setTimeout as delay } from "node:timers/promises";
import { expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { readMetrics, valueOf } from "../support/prometheus.ts";
import { type Rig, registryClient, startRig, transportNames } from "./rig.ts";

const slowHandlers = {
  list: async () => {
    await delay(60);
    return {};
  },
  async *watchServices() {
    yield {};
    await delay(60);
  },
};

test.each(transportNames)(
  "over %s a slow call is one line: its id, which, how long, how it ended, who",
  async (name) => {
    await using rig = await startRig(slowHandlers, { slowCallMs: 30 });
    const client = registryClient(rig, name);

    await client.list({});

    const [line] = await eventually(() => slowLines(rig, 1));
    expect(line).toMatchObject({
      level: 40,
      requestId: rig.calls[0]?.callId,
      method: "/steward.v1.ServiceRegistry/List",
    });
    expect(line).toMatchObject({ code: "OK", principal: "operator", peer: rig.calls[0]?.peer, omitted: 0 });
    expect(Number(line?.["durationMs"])).toBeGreaterThanOrEqual(30);
    expect(valueOf(await readMetrics(`http://127.0.0.1:${rig.connectPort}`), "steward_rpc_slow_calls_total")).toBe(1);
  },
);

test("a stream is no slow call", async () => {
  await using rig = await startRig(slowHandlers, { slowCallMs: 1 });
  for await (const _ of registryClient(rig, "gRPC").watchServices({}));
  await registryClient(rig, "gRPC").list({});

  const [line, ...others] = await eventually(() => slowLines(rig, 1));

  expect([line?.["method"], others]).toEqual(["/steward.v1.ServiceRegistry/List", []]);
});

test("of hundreds of slow calls a few lines tell, and the next one says how many were left out", async () => {
  await using rig = await startRig({}, { slowCallMs: 0.001 });
  const client = registryClient(rig, "gRPC on grpc-js");

  await Promise.all(Array.from({ length: 300 }, () => client.list({})));
  await eventually(async () => {
    await client.list({});
    return slowLines(rig, 21)?.some(({ omitted }) => Number(omitted) >= 279 - 20);
  });

  expect(rig.log.length).toBeLessThan(50);
});

test("without a threshold none is slow", async () => {
  await using rig = await startRig(slowHandlers, { slowCallMs: 0 });

  await registryClient(rig, "gRPC").list({});

  expect(rig.log).toEqual([]);
});

/** The lines about slow calls, once there are so many. */
function slowLines(rig: Rig, least: number): Record<string, unknown>[] | undefined {
  const lines = rig.log.filter(({ msg }) => msg === "slow call");
  return lines.length < least ? undefined : lines;
}
