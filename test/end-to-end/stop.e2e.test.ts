import { expect, test } from "vitest";
import { WaitCondition } from "../../gen/steward/v1/supervisor_pb.ts";
import { isRunning } from "../supervisor/state-directory.ts";
import { managed } from "./bad-requests.ts";
import { TestSteward } from "./harness.ts";
import { clientsOf } from "./transports.ts";

test("a Ctrl-C that comes twice stops the server in order, with its services", async () => {
  await using steward = await TestSteward.start();
  const { registry, supervisor } = clientsOf("gRPC on the gRPC listener", steward.addresses, steward.adminToken);
  const slowly = ["sh", "-c", "trap 'sleep 0.5; exit 0' TERM; while :; do sleep 0.05; done"];
  await registry.create({ serviceId: "slow", service: { spec: managed({ command: slowly, minReady: { nanos: 1 } }) } });
  const { service } = await supervisor.wait({ name: "slow", condition: WaitCondition.READY });

  process.kill(steward.pid, "SIGINT");
  process.kill(steward.pid, "SIGINT");
  const code = await steward.stop();

  expect(code).toBe(0);
  expect(isRunning(service?.status?.pid ?? 0)).toBe(false);
});
