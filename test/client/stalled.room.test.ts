import { expect, test } from "vitest";
import { ServiceChangeType, WatchServicesResponseSchema } from "../../gen/steward/v1/service_registry_pb.ts";
import { Code, createStewardClient, type StewardError } from "../../src/client.ts";
import { Shared } from "../../src/rpc/handler.ts";
import { goodSecret, startRig } from "../rpc/rig.ts";
import { eventually } from "../support/eventually.ts";

test.each(["connect", "grpc"] as const)(
  "a client that speaks %s resumes a watch that was cut because it did not read, without gap or duplicate",
  async (protocol) => {
    const resumedAfter: (bigint | undefined)[] = [];
    await using rig = await startRig(
      {
        async *watchServices({ after }) {
          resumedAfter.push(after?.revision);
          for (let revision = (after?.revision ?? 0n) + 1n; ; revision++) yield change(revision);
        },
      },
      { limits: { stalledMs: 300 } },
    );
    const port = protocol === "grpc" ? rig.grpcPort : rig.connectPort;
    using client = createStewardClient({ address: `127.0.0.1:${port}`, token: goodSecret, protocol });
    const interruptions: StewardError[] = [];
    const options = { onInterrupted: (error: StewardError) => void interruptions.push(error) };
    const watch = client.watchServices({ after: { revision: 1n } }, options)[Symbol.asyncIterator]();
    let last = 1n;
    const readOn = async () => {
      const { value } = await watch.next();
      expect(value?.cursor.revision).toBe(last + 1n);
      last += 1n;
    };
    await readOn();

    await eventually(() => rig.calls[0]?.signal.aborted);
    while (resumedAfter.length < 2) await readOn();
    const resumedAt = last;
    await readOn();
    await watch.return?.();

    expect(resumedAfter).toEqual([1n, resumedAt - 1n]);
    expect(interruptions.map(({ code }) => code)).toEqual([Code.ResourceExhausted]);
  },
);

function change(revision: bigint) {
  const service = { name: "web", uid: "x".repeat(10_000), revision };
  return new Shared(WatchServicesResponseSchema, () => ({
    cursor: { storeUid: "store", revision },
    message: { case: "batch" as const, value: { changes: [{ type: ServiceChangeType.CHANGED, service }] } },
  }));
}
