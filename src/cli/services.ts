import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { InstanceExit } from "../../gen/steward/v1/instance_pb.ts";
import { InstanceExitReason } from "../../gen/steward/v1/instance_pb.ts";
import {
  type Condition,
  type Service,
  ServiceSchema,
  ServiceState,
  type ServiceStatus,
  Wish,
} from "../../gen/steward/v1/service_pb.ts";
import { WaitCondition } from "../../gen/steward/v1/supervisor_pb.ts";
import type { Session } from "./command.ts";
import { eventLine } from "./events.ts";
import { allDone } from "./failure.ts";
import { age, clockTime, type OutputFormat, printList, printMessage, printTable } from "./print.ts";
import { probeWords } from "./probe-words.ts";
import { conditionWord, exitWord, quoteWord, routeWord, stateWord } from "./words.ts";

export interface WaitOptions {
  readonly wait?: boolean;
  readonly timeout: number;
}

/** `steward get services [NAME…]`. */
export async function getServices(
  session: Session,
  names: readonly string[],
  options: { output: OutputFormat; filter?: string },
): Promise<void> {
  const services = names.length > 0 ? await getEach(session, names) : await listAll(session, options.filter ?? "");
  const { screen } = session;
  const [only] = services;
  if (options.output === "name") return screen.write(services.map((each) => `${each.name}\n`).join(""));
  if (options.output !== "table") {
    if (names.length === 1 && only !== undefined) return printMessage(screen, options.output, ServiceSchema, only);
    return printList(screen, options.output, ServiceSchema, services);
  }
  if (services.length === 0) return screen.writeError("no services\n");
  const header = ["NAME", "KIND", "STATE", "READY", "PID", "RESTARTS", "ROUTE", "URL", "AGE"];
  printTable(
    screen,
    header,
    services.map((service) => serviceRow(session, service)),
  );
}

/** `steward describe NAME`: everything about one service, with its last events. */
export async function describeService(session: Session, name: string): Promise<void> {
  const { service } = await session.registry.get({ name }, { signal: session.signal });
  if (service === undefined) throw new Error("the server sent no service");
  const { events } = await session.supervisor.listEvents(
    { filter: `service = ${JSON.stringify(name)}`, tail: 10 },
    { signal: session.signal },
  );
  const { screen } = session;
  for (const [label, value] of facts(session, service)) {
    if (value !== "") screen.write(`${`${label}:`.padEnd(17)}${value}\n`);
  }
  screen.write("\nLast events:\n");
  for (const event of events) screen.write(`  ${eventLine(screen, event)}\n`);
}

/** `steward delete NAME`. */
export async function deleteService(
  session: Session,
  name: string,
  options: WaitOptions & { force?: boolean; ifExists?: boolean },
): Promise<void> {
  const request = { name, force: options.force === true, allowMissing: options.ifExists === true };
  const { service, revision } = await session.registry.delete(request, { signal: session.signal });
  if (service === undefined) return session.screen.write(`${name} does not exist\n`);
  if (options.wait === true) await waitFor(session, name, WaitCondition.DELETED, revision, options.timeout);
  session.screen.write(`${name} ${options.wait === true ? "deleted" : "is being deleted"}\n`);
}

/** `steward start|stop|restart NAME…`. */
export async function wishServices(
  session: Session,
  verb: "start" | "stop" | "restart",
  names: readonly string[],
  options: WaitOptions,
): Promise<void> {
  await allDone(names.map((name) => wishService(session, verb, name, options)));
}

/** `steward stop --all`: in one transaction, so that those which depend on others end first. */
export async function stopAll(session: Session, options: WaitOptions & { filter?: string }): Promise<void> {
  const { names, revision } = await session.supervisor.stopAll(
    { filter: options.filter ?? "" },
    { signal: session.signal },
  );
  if (names.length === 0) return session.screen.writeError("no service is wished running\n");
  const ended = names.map(async (name) => {
    if (options.wait === true) await waitFor(session, name, WaitCondition.STOPPED, revision, options.timeout);
    session.screen.write(`${name} ${options.wait === true ? done.stop : doing.stop}\n`);
  });
  await allDone(ended);
}

/** `steward reset NAME…`. */
export async function resetServices(session: Session, names: readonly string[]): Promise<void> {
  const reset = names.map(async (name) => {
    await session.supervisor.reset({ name }, { signal: session.signal });
    session.screen.write(`${name} reset\n`);
  });
  await allDone(reset);
}

/** `steward signal NAME SIGNAL`. */
export async function signalService(session: Session, name: string, word: string): Promise<void> {
  const upper = word.toUpperCase();
  const signal = upper.startsWith("SIG") ? upper : `SIG${upper}`;
  const { instanceId } = await session.supervisor.signal({ name, signal }, { signal: session.signal });
  session.screen.write(`${signal} sent to ${name}, instance ${instanceId}\n`);
}

/** Waits with the server's own call; it fails with what stands in the way. */
export async function waitFor(
  session: Session,
  name: string,
  condition: WaitCondition,
  minRevision: bigint,
  timeoutMs: number,
): Promise<Service | undefined> {
  const request = { name, condition, minRevision, timeout: durationFromMs(timeoutMs) };
  return (await session.supervisor.wait(request, { signal: session.signal })).service;
}

const done = { start: "started", stop: "stopped", restart: "restarted" } as const;
const doing = { start: "starting", stop: "stopping", restart: "restarting" } as const;

async function wishService(
  session: Session,
  verb: "start" | "stop" | "restart",
  name: string,
  options: WaitOptions,
): Promise<void> {
  const { revision } = await session.supervisor[verb]({ name }, { signal: session.signal });
  const condition = verb === "stop" ? WaitCondition.STOPPED : WaitCondition.READY;
  if (options.wait === true) await waitFor(session, name, condition, revision, options.timeout);
  session.screen.write(`${name} ${options.wait === true ? done[verb] : doing[verb]}\n`);
}

async function getEach(session: Session, names: readonly string[]): Promise<Service[]> {
  const answers = await Promise.all(names.map((name) => session.registry.get({ name }, { signal: session.signal })));
  return answers.flatMap(({ service }) => (service === undefined ? [] : [service]));
}

async function listAll(session: Session, filter: string): Promise<Service[]> {
  const services: Service[] = [];
  let pageToken = "";
  do {
    const page = await session.registry.list({ filter, pageToken, pageSize: 1_000 }, { signal: session.signal });
    services.push(...page.services);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  return services;
}

function serviceRow(session: Session, service: Service): string[] {
  const { status } = service;
  return [
    service.name,
    service.spec?.kind.case ?? "-",
    stateWord(session.screen, service),
    status?.ready === true ? "yes" : "no",
    status?.pid ? String(status.pid) : "-",
    String(status?.restarts ?? 0),
    routeWord(status?.route),
    status?.url || service.spec?.url || "-",
    age(service.createTime),
  ];
}

function facts(session: Session, service: Service): [label: string, value: string][] {
  const { spec, status } = service;
  const managed = spec?.kind.case === "managed" ? spec.kind.value : undefined;
  const external = spec?.kind.case === "external" ? spec.kind.value : undefined;
  return [
    ["Name", service.name],
    ["Uid", service.uid],
    ["Kind", spec?.kind.case ?? ""],
    ["Command", managed?.command.map(quoteWord).join(" ") ?? ""],
    ["Directory", managed?.cwd ?? ""],
    ["User", managed?.user ?? ""],
    ["Environment", Object.keys(managed?.environment ?? {}).join(", ")],
    ["Url", status?.url || spec?.url || ""],
    [
      "Route",
      status?.route === undefined
        ? ""
        : `${status.route.prefix} -> ${status.route.target} (${routeWord(status.route)}${status.route.message === "" ? "" : `: ${status.route.message}`})`,
    ],
    ["Startup probe", probeWords(managed?.startupProbe)],
    ["Readiness probe", probeWords(managed?.readinessProbe)],
    ["Liveness probe", probeWords(managed?.livenessProbe)],
    ["Probe", probeWords(external?.probe)],
    ["Admin", spec?.admin === true ? "yes" : "no"],
    ["OAuth client", spec?.oauthClientId ?? ""],
    [
      "Labels",
      Object.entries(spec?.labels ?? {})
        .map(([key, value]) => `${key}=${value}`)
        .join(", "),
    ],
    ["Set", service.setName],
    ["Wish", wishWord(service.wish)],
    ["State", `${stateWord(session.screen, service)}${status?.message ? ` (${status.message})` : ""}`],
    ["Ready", readyWords(status)],
    ["Conditions", (status?.conditions ?? []).map(conditionWords).join("; ")],
    ["Pid", status?.pid ? String(status.pid) : ""],
    ["Restarts", String(status?.restarts ?? 0)],
    ["Next start", status?.nextStartTime === undefined ? "" : clockTime(status.nextStartTime)],
    ["Last exit", lastExit(status?.lastExit)],
    ["Generation", `${service.generation} (running: ${status?.observedGeneration ?? 0})`],
    ["Registered", `${clockTime(service.createTime)} (${age(service.createTime)} ago)`],
    ["Etag", service.etag],
  ];
}

/** An external service is neither before it was found up or down. */
function readyWords(status: ServiceStatus | undefined): string {
  if (status === undefined) return "no";
  const since = status.readyTransitionTime === undefined ? "" : `, for ${age(status.readyTransitionTime)}`;
  if (status.state !== ServiceState.EXTERNAL) return `${status.ready ? "yes" : "no"}${since}`;
  return status.reason === "" ? "unknown" : `${status.reason.toLowerCase()}${since}`;
}

function conditionWords({ type, message, since }: Condition): string {
  return `${conditionWord(type)} for ${age(since)}: ${message}`;
}

function lastExit(exit: InstanceExit | undefined): string {
  if (exit === undefined) return "";
  const how = exit.reason === InstanceExitReason.LOST ? "unknown: nothing recorded it" : exitWord(exit);
  return `${how}${exit.requested ? ", as asked" : ""}, at ${clockTime(exit.time)}`;
}

function wishWord(wish: Wish): string {
  switch (wish) {
    case Wish.RUNNING:
      return "running";
    case Wish.STOPPED:
      return "stopped";
    case Wish.DELETED:
      return "deleted";
    default:
      return "";
  }
}
