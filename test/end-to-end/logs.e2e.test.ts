import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { LogStream, type StreamLogsResponse, WaitCondition } from "../../gen/steward/v1/supervisor_pb.ts";
import { createStewardClient, ErrorReason, type StewardClient, StewardError } from "../../src/client.ts";
import { eventually } from "../support/eventually.ts";
import { drain, managed } from "./bad-requests.ts";
import { freePort, TestSteward } from "./harness.ts";

describe.each(["connect", "grpc"] as const)("over %s", (protocol) => {
  let steward: TestSteward;
  let client: StewardClient;
  let ending: AbortController;

  beforeEach(async () => {
    ending = new AbortController();
    const [listen, grpcListen] = [await freePort(), await freePort()];
    const flags = { listen: `127.0.0.1:${listen}`, "grpc-listen": `127.0.0.1:${grpcListen}` };
    steward = await TestSteward.start({ flags });
    client = createStewardClient({ address: steward.addresses[protocol], token: steward.adminToken, protocol });
  });
  afterEach(async () => {
    ending.abort();
    client.close();
    await steward[Symbol.asyncDispose]();
  });

  test("a follower goes on over kill -9 of the server and restarts of the service, without loss or repetition", async () => {
    await start("counter", "i=0; while :; do i=$((i + 1)); echo $i; echo $i >&2; sleep 0.01; done");
    let interruptions = 0;
    const follower = follow("counter", { onInterrupted: () => (interruptions += 1) });
    await eventually(() => follower.text(LogStream.STDOUT).includes("\n50\n"));

    await steward.crash();
    const before = follower.text(LogStream.STDOUT).length;
    await steward.startAgain();
    await client.supervisor.restart({ name: "counter" });
    await eventually(() => follower.text(LogStream.STDERR).split("\n50\n").length > 2, patiently);
    await eventually(() => follower.text(LogStream.STDOUT).split("\n50\n").length > 2, patiently);
    ending.abort();
    await follower.ended;

    expect(interruptions).toBeGreaterThan(0);
    expect(follower.text(LogStream.STDOUT).length).toBeGreaterThan(before);
    const all = await Array.fromAsync(client.supervisor.streamLogs({ name: "counter" }));
    for (const stream of [LogStream.STDOUT, LogStream.STDERR]) {
      const seen = follower.text(stream);
      expect(seen).toBe(textOf(all, stream).slice(0, seen.length));
    }
    expect(follower.times).toEqual(follower.times.toSorted((one, other) => one - other));
  });

  test("logs are told since a time, after a cursor, and to the end of the service", async () => {
    await start("worker", "echo one; exec sleep 1000");
    await start("other", "echo other; exec sleep 1000");
    const name = "worker";
    const [first] = await eventually(async () => {
      const all = await Array.fromAsync(client.supervisor.streamLogs({ name }));
      return all.length > 0 && all;
    });
    const cursor = first?.cursor ?? "";
    const { seconds = 0n } = first?.time ?? {};

    expect(
      await Array.fromAsync(client.supervisor.streamLogs({ name, since: { seconds: seconds - 60n } })),
    ).toContainEqual(expect.objectContaining({ data: first?.data, time: first?.time }));
    expect(await Array.fromAsync(client.supervisor.streamLogs({ name, since: { seconds: seconds + 3_600n } }))).toEqual(
      [],
    );
    for (const bad of [
      { name: "other", cursor },
      { name, cursor: `${cursor.slice(0, -2)}AA` },
      { name, cursor: "x y" },
    ]) {
      const refused = await drain(client.supervisor.streamLogs(bad)).catch((error: unknown) => error);
      expect(refused).toBeInstanceOf(StewardError);
      expect(refused).toMatchObject({
        reason: ErrorReason.VALIDATION_FAILED,
        message: expect.stringContaining("cursor"),
      });
    }
    const follower = follow(name, {}, cursor);
    await client.registry.delete({ name, force: true });
    await follower.ended;
    expect(follower.text(LogStream.STDOUT)).toBe("");
  });

  async function start(name: string, script: string): Promise<void> {
    const spec = managed({ command: ["sh", "-c", script], minReady: { seconds: 0n, nanos: 10_000_000 } });
    const { revision } = await client.registry.create({ serviceId: name, service: { spec } });
    await client.supervisor.wait({ name, condition: WaitCondition.READY, minRevision: revision });
  }

  function follow(name: string, options: { onInterrupted?: () => void } = {}, cursor = "") {
    const seen: StreamLogsResponse[] = [];
    const ended = (async () => {
      for await (const response of client.followLogs({ name, cursor }, { signal: ending.signal, ...options }))
        seen.push(response);
    })();
    return {
      ended,
      text: (stream: LogStream) => textOf(seen, stream),
      get times() {
        return seen.map(({ time }) => Number(time?.seconds) * 1_000 + (time?.nanos ?? 0) / 1_000_000);
      },
    };
  }
});

/** A follower waits up to ten seconds before it tries again. */
const patiently = { timeoutMs: 60_000 };

function textOf(responses: readonly (StreamLogsResponse | undefined)[], stream: LogStream): string {
  return Buffer.concat(responses.flatMap((each) => (each?.stream === stream ? each.data : []))).toString();
}
