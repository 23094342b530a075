import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { EventType } from "../../gen/steward/v1/event_pb.ts";
import type { InstanceExit } from "../../gen/steward/v1/instance_pb.ts";
import { RestartMode, type Service, type ServiceStatus } from "../../gen/steward/v1/service_pb.ts";
import { WaitCondition } from "../../gen/steward/v1/supervisor_pb.ts";
import { isRunning } from "../supervisor/state-directory.ts";
import { eventually } from "../support/eventually.ts";
import { managed } from "./bad-requests.ts";
import type { TestSteward } from "./harness.ts";
import type { Clients } from "./transports.ts";

const atOnce = { nanos: 1 };

/** Registers a service that only sleeps; resolves when it runs. */
export function startSleeper(clients: Clients, name: string): Promise<Service> {
  return start(clients, name, managed({ command: ["sleep", "1000"], minReady: atOnce }));
}

/** Registers a service that serves at a port of Steward's choice; resolves when its route is in place. */
export function startWeb(clients: Clients, name: string): Promise<Service> {
  const program = new URL("../fixtures/web-service.mjs", import.meta.url).pathname;
  return start(clients, name, managed({ command: [process.execPath, program] }, { url: "http://127.0.0.1:0" }));
}

/** A service that runs until it is told to exit, and is not started again then. */
export interface Obedient {
  readonly pid: number;
  exit(code: number): Promise<void>;
}

export async function startObedient({ stateDir }: TestSteward, clients: Clients, name: string): Promise<Obedient> {
  const fifo = join(stateDir, `${name}.word`);
  execFileSync("/usr/bin/mkfifo", [fifo]);
  const command = ["sh", "-c", `read -r code <"${fifo}"; exit "$code"`];
  const restartPolicy = { mode: RestartMode.NEVER };
  const { status } = await start(clients, name, managed({ command, minReady: atOnce, restartPolicy }));
  const pid = status?.pid ?? 0;
  return {
    pid,
    async exit(code) {
      writeFileSync(fifo, `${code}\n`);
      await eventually(() => !isRunning(pid));
    },
  };
}

export async function statusOf({ registry }: Clients, name: string): Promise<ServiceStatus> {
  const { service } = await registry.get({ name });
  if (service?.status === undefined) throw new Error(`${name} has no status`);
  return service.status;
}

/** How the last instance of a service ended; resolves once the log tells. */
export function exitOf({ supervisor }: Clients, name: string): Promise<InstanceExit> {
  return eventually(async () => {
    const { events } = await supervisor.listEvents({ filter: `service = "${name}"`, tail: 1_000 });
    const exit = events.findLast(({ type }) => type === EventType.INSTANCE_EXITED)?.payload;
    return exit?.case === "instance" ? exit.value.exit : undefined;
  });
}

async function start({ registry, supervisor }: Clients, name: string, spec: ReturnType<typeof managed>) {
  const { revision } = await registry.create({ serviceId: name, service: { spec } });
  const condition = WaitCondition.READY;
  const { service } = await supervisor.wait({ name, condition, minRevision: revision, timeout: { seconds: 60n } });
  if (service === undefined) throw new Error(`${name} is gone`);
  return service;
}
