import { rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EventType } from "../../gen/steward/v1/event_pb.ts";
import { type ProbeSchema, ServiceState, type ServiceStatus } from "../../gen/steward/v1/service_pb.ts";
import { CauseKind, ProbeRole } from "../../gen/steward/v1/supervisor_pb.ts";
import { originOf } from "../../src/supervisor/probes/address.ts";
import { Neighbours } from "../supervisor/probes/neighbours.ts";
import { eventually } from "../support/eventually.ts";
import { managed } from "./bad-requests.ts";
import { TestSteward } from "./harness.ts";
import { type Clients, clientsOf } from "./transports.ts";

type ProbeInit = MessageInitShape<typeof ProbeSchema> & { kind: object };

describe("probes over the API", () => {
  const neighbours = new Neighbours();
  let steward: TestSteward;
  let admin: Clients;

  beforeAll(async () => {
    steward = await TestSteward.start();
    admin = clientsOf("gRPC on the gRPC listener", steward.addresses, steward.adminToken);
  });
  afterAll(async () => {
    neighbours.close();
    await steward?.[Symbol.asyncDispose]();
  });

  const quick = { period: { nanos: 100_000_000 }, timeout: { seconds: 10n }, failureThreshold: 2 };
  const file = (name: string) => join(steward.stateDir, name);

  async function until(name: string, isSo: (status: ServiceStatus) => boolean): Promise<ServiceStatus> {
    return eventually(async () => {
      const status = (await admin.registry.get({ name })).service?.status;
      if (status === undefined || !isSo(status)) throw new Error(JSON.stringify(status?.message));
      return status;
    });
  }

  async function eventsOf(name: string): Promise<{ type: EventType; message: string }[]> {
    return (await admin.supervisor.listEvents({ filter: `service = "${name}"` })).events;
  }

  test("a managed service is ready, unready and given up as its probes say, and Explain shows them", async () => {
    const [ready, alive] = [file("ready"), file("alive")];
    for (const gate of [ready, alive]) writeFileSync(gate, "");
    const exec = (gate: string): ProbeInit["kind"] => ({ case: "exec", value: { command: ["test", "-e", gate] } });
    const { service } = await admin.registry.create({
      serviceId: "web",
      service: {
        spec: managed({
          command: ["sh", "-c", `printf '\\n' >&7; exec sleep 1000`],
          startupProbe: { kind: { case: "notify", value: { fd: 7 } } },
          readinessProbe: { kind: exec(ready), ...quick },
          livenessProbe: { kind: exec(alive), ...quick },
        }),
      },
    });
    const spec = service?.spec?.kind.case === "managed" ? service.spec.kind.value : undefined;
    expect(spec?.startupProbe).toMatchObject({ kind: { case: "notify", value: { fd: 7 } }, failureThreshold: 3 });
    expect(spec?.readinessProbe).toMatchObject({ failureThreshold: 2, successThreshold: 1 });

    const first = await until("web", (status) => status.ready);
    rmSync(ready);
    const unready = await until("web", (status) => status.reason === "UNREADY");
    expect(unready).toMatchObject({ state: ServiceState.RUNNING, pid: first.pid });

    const explanation = await admin.supervisor.explain({ name: "web" });
    expect(explanation.well).toBe(false);
    expect(explanation.causes.map(({ kind }) => kind)).toContain(CauseKind.PROBE);
    expect(explanation.probeResults).toContainEqual(
      expect.objectContaining({ role: ProbeRole.READINESS, success: false, message: "it exits with code 1" }),
    );

    writeFileSync(ready, "");
    await until("web", (status) => status.ready);
    rmSync(alive);
    await eventually(async () =>
      (await eventsOf("web")).some(({ message }) => /^stopped: .* test failed 2 /.test(message)),
    );
    writeFileSync(alive, "");
    const second = await until("web", (status) => status.ready && status.pid !== first.pid);
    expect(second.restarts).toBeGreaterThan(0);
    expect((await eventsOf("web")).map(({ type }) => type)).toEqual(
      expect.arrayContaining([EventType.INSTANCE_READY, EventType.INSTANCE_UNREADY, EventType.RESTART_SCHEDULED]),
    );
  });

  test("an external service is found up and down, and Explain says since when and why", async () => {
    let answer = 200;
    const server = createServer((_, response) => response.writeHead(answer).end());
    const url = originOf(await neighbours.listen(server));
    const probe = { kind: { case: "http", value: { path: "/health" } }, ...quick, failureThreshold: 1 } as const;
    await admin.registry.create({
      serviceId: "mail",
      service: { spec: { url, kind: { case: "external", value: { probe } } } },
    });

    expect(await until("mail", (status) => status.ready)).toMatchObject({ reason: "UP", message: "" });
    expect(await admin.supervisor.explain({ name: "mail" })).toMatchObject({ well: true });
    answer = 500;
    const down = await until("mail", (status) => status.reason === "DOWN");

    expect(down).toMatchObject({ ready: false, message: "it answers 500" });
    const { summary, causes, probeResults } = await admin.supervisor.explain({ name: "mail" });
    expect(summary).toContain("was found down: it answers 500");
    expect(causes).toContainEqual(expect.objectContaining({ kind: CauseKind.STATE, time: down.readyTransitionTime }));
    expect(probeResults[0]).toMatchObject({ role: ProbeRole.EXTERNAL, success: false });
    expect((await eventsOf("mail")).map(({ type }) => type)).toEqual([
      EventType.SERVICE_CREATED,
      EventType.SERVICE_UP,
      EventType.SERVICE_DOWN,
    ]);
  });
});
