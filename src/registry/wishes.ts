import { AppError } from "../domain/errors.ts";
import { forgive } from "../domain/lifecycle.ts";
import { isManaged, type ManagedService, type Service } from "../domain/service.ts";
import { endedStates } from "../domain/status.ts";
import { type Call, checkEtag, checkNotDeleting, eventOf } from "./call.ts";
import { lockService, type Outcome } from "./changes.ts";
import type { RegistryTransaction } from "./writer.ts";

/** What a client wishes of a managed service; undefined: it is so already. */
export type Decision = { readonly wish: "running" | "stopped"; readonly generation: number } | undefined;

/** Running, and at once: one that ended or waits to restart begins anew. */
export function decideStart({ wish, generation, status }: Service): Decision {
  const rests = endedStates.has(status.state) || ["backing_off", "crash_loop"].includes(status.state);
  return wish === "running" && !rests ? undefined : { wish: "running", generation: generation + 1 };
}

export function decideStop({ wish, generation }: Service): Decision {
  return wish === "stopped" ? undefined : { wish: "stopped", generation };
}

/** A new process, whatever there is. */
export function decideRestart({ generation }: Service): Decision {
  return { wish: "running", generation: generation + 1 };
}

export async function wishService(
  tx: RegistryTransaction,
  call: Call,
  request: { name: string; etag: string },
  decide: (service: Service) => Decision,
): Promise<Outcome> {
  const service = await lockManaged(tx, request);
  return carryOut(tx, call, service, decide(service));
}

/** Wishes all managed services stopped that match; those that are stopped or on their way out stay as they are. */
export async function stopServices(
  tx: RegistryTransaction,
  call: Call,
  matches: (service: Service) => boolean,
): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const service of await tx.servicesWished("running")) {
    if (isManaged(service) && matches(service)) outcomes.push(await carryOut(tx, call, service, decideStop(service)));
  }
  return outcomes;
}

/** Forgets what failed: at once in what is shown, and through the raised count in whatever its runner writes next. */
export async function resetService(
  tx: RegistryTransaction,
  call: Call,
  request: { name: string; etag: string },
): Promise<Outcome> {
  const service = await lockManaged(tx, request);
  const resets = service.resets + 1;
  const status = { ...service.status, restarts: 0, failures: 0, recentFailures: [] };
  await tx.updateService(service, { resets, status });
  const changed = { ...service, resets, status: forgive(status, resets) };
  tx.append(eventOf(call, changed, { type: "service_reset" }, `${call.principal.name} had its failures forgotten`));
  return { ...nothingElse, action: "update", service: changed };
}

/** What the registry needs of the supervisor: its processes. */
export interface Processes {
  /** Sends a signal to an instance, the current one unless it is named, or only looks whether it could. Throws failed_precondition if there is none. */
  signal(
    service: ManagedService,
    o: { readonly signal: NodeJS.Signals; readonly instanceId: string | undefined; readonly lookOnly: boolean },
  ): Promise<string>;
}

/**
 * Has a signal sent to a process, also of a service on its way out; returns the instance. It is sent inside of the transaction that records it: if
 * that cannot be committed, the caller is told so and may send it again.
 */
export async function signalService(
  tx: RegistryTransaction,
  call: Call,
  processes: Processes,
  request: { name: string; etag: string; signal: NodeJS.Signals; instanceId: string | undefined },
): Promise<string> {
  const { name, etag, signal, instanceId } = request;
  const service = await lockService(tx, name);
  checkEtag(service, etag);
  if (!isManaged(service)) throw notManaged(service);
  const signalled = await processes.signal(service, { signal, instanceId, lookOnly: call.validateOnly });
  const body = { type: "instance_signalled", instanceId: signalled, signal } as const;
  tx.append(eventOf(call, service, body, `${call.principal.name} had ${signal} sent to it`));
  return signalled;
}

const nothingElse = { paths: [], restarts: false, warnings: [] } as const;

async function carryOut(
  tx: RegistryTransaction,
  call: Call,
  service: ManagedService,
  decision: Decision,
): Promise<Outcome> {
  if (decision === undefined) return { ...nothingElse, action: "unchanged", service };
  const changed = { ...service, ...decision, version: service.version + 1 };
  await tx.updateService(service, { ...decision, version: changed.version });
  const asked = call.method.split("/").at(-1)?.toLowerCase() ?? "it";
  const body = { type: "wish_changed", wish: decision.wish } as const;
  tx.append(eventOf(call, changed, body, `${call.principal.name} asked for ${asked}`));
  return { ...nothingElse, action: "update", service: changed };
}

async function lockManaged(
  tx: RegistryTransaction,
  { name, etag }: { name: string; etag: string },
): Promise<ManagedService> {
  const service = await lockService(tx, name);
  checkNotDeleting(service);
  checkEtag(service, etag);
  if (!isManaged(service)) throw notManaged(service);
  return service;
}

function notManaged({ name }: Service): AppError {
  const message = `${name} is managed by somebody else; Steward does not run its process`;
  return new AppError("failed_precondition", "SERVICE_NOT_MANAGED", message, {
    metadata: { service: name },
    resource: { type: "service", name },
  });
}
