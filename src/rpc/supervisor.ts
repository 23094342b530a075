import { LogStream, type Supervisor as SupervisorDesc } from "../../gen/steward/v1/supervisor_pb.ts";
import { AppError, invalid } from "../domain/errors.ts";
import { eventFilter } from "../domain/filter.ts";
import { decodeOutputCursor, encodeOutputCursor, type OutputOffsets } from "../domain/output-cursor.ts";
import { decodePageToken, encodePageToken, pageSizeOf } from "../domain/page.ts";
import { allow, may, type Principal } from "../domain/principal.ts";
import type { Route } from "../domain/route.ts";
import { isManaged, type ManagedService, type Service } from "../domain/service.ts";
import type { Instance } from "../domain/status.ts";
import { allowSome } from "./allow-some.ts";
import { cursorToProto, eventToProto } from "./convert-event.ts";
import { instanceToProto } from "./convert-instance.ts";
import { routeToProto } from "./convert-route.ts";
import { serviceFor } from "./convert-service.ts";
import { durationFromProto, timeFromProto, timeToProto } from "./convert-time.ts";
import { invertTable } from "./enum-table.ts";
import { checkTail, type EventLog } from "./event-log.ts";
import type { Explaining } from "./explain.ts";
import type { Handlers } from "./handler.ts";
import { type RegistryCall, registryCall } from "./registry-call.ts";
import type { SeenRevision } from "./seen-revision.ts";
import type { Waiting } from "./wait.ts";
import { conditionFromProto } from "./wait-condition.ts";
import type { EventWatch } from "./watch-events.ts";
import { cursorFromProto } from "./watch-feed.ts";

/** What the handlers need of the registry. */
export interface WishRoom {
  start(call: RegistryCall, request: { name: string; etag: string }): Promise<WishedService>;
  stop(call: RegistryCall, request: { name: string; etag: string }): Promise<WishedService>;
  restart(call: RegistryCall, request: { name: string; etag: string }): Promise<WishedService>;
  reset(call: RegistryCall, request: { name: string; etag: string }): Promise<WishedService>;
  stopAll(
    call: RegistryCall,
    request: { filter: string },
  ): Promise<{ readonly names: string[]; readonly revision: bigint }>;
  signal(
    call: RegistryCall,
    request: { name: string; etag: string; signal: NodeJS.Signals; instanceId: string | undefined },
  ): Promise<{ readonly instanceId: string; readonly revision: bigint }>;
  /** Records that a client has the routes compared. */
  routesReconciled(call: RegistryCall, request: { reassert: boolean }): Promise<{ readonly revision: bigint }>;
  /** Throws not_found. */
  get(name: string): Promise<{ readonly service: Service; readonly revision: bigint }>;
}

export interface WishedService {
  readonly service: Service;
  readonly revision: bigint;
}

/** What the handlers need of the stored instances. */
export interface InstanceReader {
  /** Newest first, after the given place. */
  page(o: {
    serviceUid: string | undefined;
    liveOnly: boolean;
    after: { time: Date; id: string } | undefined;
    limit: number;
  }): Promise<readonly Instance[]>;
}

/** What the handlers need of the stored routes. */
export interface RouteReader {
  /** By service name, after the given one. */
  page(o: { afterService: string | undefined; limit: number }): Promise<readonly Route[]>;
}

/** What the handlers need of the supervisor: what services write. */
export interface OutputSource {
  /** With `follow` it ends only with the signal or the service. */
  logs(o: {
    readonly service: ManagedService;
    readonly streams: readonly OutputStream[];
    readonly tailLines: number | undefined;
    readonly since: Date | undefined;
    readonly from: OutputOffsets | undefined;
    readonly follow: boolean;
    readonly signal: AbortSignal;
  }): AsyncIterable<{
    readonly stream: OutputStream;
    readonly data: Uint8Array;
    readonly offset: bigint;
    readonly time: Date;
    /** Where reading goes on after it. */
    readonly next: OutputOffsets;
  }>;
}

export type OutputStream = "stdout" | "stderr";

/** What the handlers need of the proxy's side. */
export interface RouteRepair {
  /** Both throw unavailable if the proxy does not answer. */
  reconcile(o: { reassert: boolean }): Promise<RepairResult>;
  /** What `reconcile` would come to now. */
  foresee(o: { reassert: boolean }): Promise<RepairResult>;
}

interface RepairResult {
  readonly wanted: number;
  readonly put: number;
  readonly removed: number;
  readonly failed: number;
}

export interface SupervisorOptions {
  readonly services: WishRoom;
  readonly instances: InstanceReader;
  readonly routes: RouteReader;
  readonly output: OutputSource;
  readonly explaining: Explaining;
  readonly repair: RouteRepair;
  readonly events: EventLog;
  readonly watch: EventWatch;
  readonly waiting: Waiting;
  readonly seen: SeenRevision;
  /** The newest revision, for lists that are not of services. */
  readonly head: () => bigint;
}

/** Permission first, before existence and detail; then convert, ask, convert back. No call waits for a process or a proxy, but Wait. */
export function supervisor(options: SupervisorOptions): Handlers<typeof SupervisorDesc> {
  return {
    ...wishHandlers(options),
    ...processHandlers(options),
    ...listHandlers(options),
    ...eventHandlers(options),
    ...logHandlers(options),
  };
}

type SupervisorHandlers = Handlers<typeof SupervisorDesc>;

const defaultWaitMs = 60_000;

function wishHandlers({
  services,
  waiting,
}: SupervisorOptions): Pick<SupervisorHandlers, "start" | "stop" | "restart" | "stopAll" | "reset" | "wait"> {
  return {
    async start(request, context) {
      const { name, etag } = request;
      allow(context.principal, "control:services", name);
      return wished(context.principal, await services.start(registryCall(context, request), { name, etag }));
    },

    async stop(request, context) {
      const { name, etag } = request;
      allow(context.principal, "control:services", name);
      return wished(context.principal, await services.stop(registryCall(context, request), { name, etag }));
    },

    async restart(request, context) {
      const { name, etag } = request;
      allow(context.principal, "control:services", name);
      return wished(context.principal, await services.restart(registryCall(context, request), { name, etag }));
    },

    async stopAll(request, context) {
      allow(context.principal, "control:services");
      return await services.stopAll(registryCall(context, request), { filter: request.filter });
    },

    async reset(request, context) {
      const { name, etag } = request;
      allow(context.principal, "control:services", name);
      return wished(context.principal, await services.reset(registryCall(context, request), { name, etag }));
    },

    async wait({ name, condition: asked, minRevision, timeout }, { principal, signal }) {
      allow(principal, "read:services", name);
      const condition = conditionFromProto(asked);
      if (condition === undefined) throw invalid({ field: "condition", description: "is not known to this server" });
      const timeoutMs = durationFromProto(timeout) ?? defaultWaitMs;
      const { service, revision } = await waiting.until({ name, condition, minRevision, timeoutMs, signal });
      if (condition === "deleted" || service === undefined) return { revision };
      return { service: serviceFor(principal, service), revision };
    },
  };
}

function processHandlers({ services, explaining }: SupervisorOptions): Pick<SupervisorHandlers, "signal" | "explain"> {
  return {
    async signal(request, context) {
      const { name, etag, instanceId } = request;
      allow(context.principal, "control:services", name);
      return await services.signal(registryCall(context, request), {
        ...{ name, etag },
        // The rules of the proto let only names of signals through.
        signal: request.signal as NodeJS.Signals,
        instanceId: instanceId === "" ? undefined : instanceId,
      });
    },

    async explain({ name }, { principal }) {
      allow(principal, "read:services", name);
      return await explaining.explain(name, principal);
    },
  };
}

function listHandlers({
  services,
  instances,
  routes,
  repair,
  seen,
  head,
}: SupervisorOptions): Pick<SupervisorHandlers, "listInstances" | "listRoutes" | "reconcileRoutes"> {
  return {
    async listInstances(request, context) {
      const { principal } = context;
      const { service: name, liveOnly } = request;
      allow(principal, "read:services", name === "" ? undefined : name);
      const size = pageSizeOf(request);
      const list = ["instances", name, String(liveOnly)];
      const after = parsePlace(decodePageToken(list, request.pageToken));
      await seen.reached(request.minRevision, context);
      const found = name === "" ? undefined : await services.get(name);
      const revision = found?.revision ?? head();
      const page = await instances.page({ serviceUid: found?.service.uid, liveOnly, after, limit: size + 1 });
      const shown = page.slice(0, size);
      const last = page.length > size ? shown.at(-1) : undefined;
      const nextPageToken = last === undefined ? "" : encodePageToken(list, formatPlace(last));
      return { instances: shown.map(instanceToProto), nextPageToken, revision };
    },

    async listRoutes(request, context) {
      const { principal } = context;
      allowSome(principal, "read:routes");
      const size = pageSizeOf(request);
      const list = ["routes"];
      await seen.reached(request.minRevision, context);
      const revision = head();
      const page = await visibleRoutes(routes, principal, decodePageToken(list, request.pageToken), size + 1);
      const shown = page.slice(0, size);
      const last = page.length > size ? shown.at(-1) : undefined;
      const nextPageToken = last === undefined ? "" : encodePageToken(list, last.service);
      return { routes: shown.map(routeToProto), nextPageToken, revision };
    },

    async reconcileRoutes(request, context) {
      allow(context.principal, "admin:routes");
      const { reassert, validateOnly } = request;
      if (validateOnly) return { ...(await repair.foresee({ reassert })), revision: 0n };
      // Recorded first: what was done is never without a word of who asked for it.
      const { revision } = await services.routesReconciled(registryCall(context, request), { reassert });
      return { ...(await repair.reconcile({ reassert })), revision };
    },
  };
}

function eventHandlers({
  events,
  watch,
  seen,
}: SupervisorOptions): Pick<SupervisorHandlers, "listEvents" | "watchEvents"> {
  return {
    async listEvents(request, context) {
      const { principal } = context;
      allowSome(principal, "read:events");
      const { filter, tail, pageSize, pageToken } = request;
      const after = cursorFromProto(request.after);
      const since = timeFromProto(request.since);
      checkTail({ tail, pageToken, after, since });
      const isAsked = eventFilter(filter);
      const query = {
        ...{ pageSize, pageToken, filter, after, since, signal: context.signal },
        matches: (event: Parameters<typeof isAsked>[0]) =>
          may(principal, "read:events", event.service?.name) &&
          (since === undefined || event.time >= since) &&
          isAsked(event),
      };
      await seen.reached(request.minRevision, context);
      const page = tail > 0 ? await events.tail(tail, query) : await events.page(query);
      return {
        events: page.events.map((event) => eventToProto(event, undefined)),
        nextPageToken: page.nextPageToken,
        cursor: cursorToProto(page.cursor),
      };
    },

    watchEvents: (request, context) => watch.watch(request, context),
  };
}

function logHandlers({ services, output }: SupervisorOptions): Pick<SupervisorHandlers, "streamLogs"> {
  return {
    async *streamLogs(request, { principal, signal }) {
      const { name, streams, tailLines, cursor, follow } = request;
      allow(principal, "read:services:logs", name);
      const since = timeFromProto(request.since);
      checkBeginning({ tailLines, since, cursor });
      const { service } = await services.get(name);
      if (!isManaged(service)) throw notManaged(name);
      const words = streams.flatMap((stream) => streamOf.get(stream) ?? []);
      const wanted = words.length === 0 ? bothStreams : words;
      const from = cursor === "" ? undefined : decodeOutputCursor(service.uid, cursor);
      const asked = { service, streams: wanted, tailLines, since, from, follow, signal };
      for await (const { stream, data, offset, time, next } of output.logs(asked)) {
        const cursorAfter = encodeOutputCursor(service.uid, { ...from, ...next });
        yield { stream: logStreams[stream], data, offset, time: timeToProto(time), cursor: cursorAfter };
      }
    },
  };
}

/** There is one beginning. */
function checkBeginning(o: {
  readonly tailLines: number | undefined;
  readonly since: Date | undefined;
  readonly cursor: string;
}): void {
  if (o.since !== undefined && (o.tailLines !== undefined || o.cursor !== ""))
    throw invalid({ field: "since", description: "cannot be combined with tail_lines or cursor" });
  if (o.cursor !== "" && o.tailLines !== undefined)
    throw invalid({ field: "cursor", description: "cannot be combined with tail_lines or since" });
}

function wished(principal: Principal, { service, revision }: WishedService) {
  return { service: serviceFor(principal, service), revision };
}

/** Enough routes that the principal may see, while there are. */
async function visibleRoutes(
  routes: RouteReader,
  principal: Principal,
  afterService: string | undefined,
  limit: number,
): Promise<Route[]> {
  const visible: Route[] = [];
  for (let after = afterService; ; ) {
    const page = await routes.page({ afterService: after, limit });
    visible.push(...page.filter(({ service }) => may(principal, "read:routes", service)));
    after = page.at(-1)?.service;
    if (page.length < limit || visible.length >= limit) return visible.slice(0, limit);
  }
}

function formatPlace({ createTime, id }: Instance): string {
  return `${createTime.toISOString()} ${id}`;
}

function parsePlace(place: string | undefined): { time: Date; id: string } | undefined {
  const [time, id] = place?.split(" ") ?? [];
  return time === undefined || id === undefined ? undefined : { time: new Date(time), id };
}

function notManaged(name: string): AppError {
  return new AppError(
    "failed_precondition",
    "SERVICE_NOT_MANAGED",
    `${name} is managed by somebody else: Steward has neither its process nor its output`,
    {
      metadata: { service: name },
      resource: { type: "service", name },
    },
  );
}

const bothStreams: readonly OutputStream[] = ["stdout", "stderr"];

export const logStreams: Readonly<Record<OutputStream, LogStream>> = {
  stdout: LogStream.STDOUT,
  stderr: LogStream.STDERR,
};

const streamOf = invertTable(logStreams);
