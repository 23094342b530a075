import type { Clock } from "../domain/clock.ts";
import { serviceNotFound } from "../domain/errors.ts";
import { parseServiceFilter, type ServiceFilter, serviceFilter } from "../domain/filter.ts";
import { decodePageToken, encodePageToken, pageSizeOf, pageTokenInvalid } from "../domain/page.ts";
import type { Service } from "../domain/service.ts";
import { nameKey, parseServiceName } from "../domain/service-name.ts";
import {
  formatPlace,
  formatServiceOrder,
  type Place,
  parsePlace,
  parseServiceOrder,
  type ServiceOrder,
} from "../domain/service-order.ts";
import type { ServiceSpecInput, SpecRules } from "../domain/service-spec.ts";
import type { SpecRevision } from "../domain/spec-revision.ts";
import type { TokenKeys } from "../domain/token-secret.ts";
import { applySet, checkSet, type WantedSet } from "./apply.ts";
import { type Call, eventOf } from "./call.ts";
import {
  type ChangeTools,
  createService,
  deleteService,
  type HostChecks,
  type Outcome,
  rollBackService,
  updateService,
} from "./changes.ts";
import { checkDependents, checkUnused } from "./dependencies.ts";
import type { KnownServices } from "./known-services.ts";
import {
  decideRestart,
  decideStart,
  decideStop,
  type Processes,
  resetService,
  signalService,
  stopServices,
  wishService,
} from "./wishes.ts";
import { type RegistryStore, type RegistryTransaction, type RegistryWritten, Writer } from "./writer.ts";

/** What the registry needs of the store to read many services. */
export interface ServiceReader {
  /** Those that match, in order, each with its place in it. */
  page(o: {
    filter: ServiceFilter | undefined;
    order: ServiceOrder;
    /** Only services of these names; undefined: of all. */
    names: readonly string[] | undefined;
    after: Place | undefined;
    limit: number;
  }): Promise<{ services: readonly { service: Service; place: Place }[]; revision: bigint }>;
  withDependencies(name: string): Promise<{ services: readonly Service[]; revision: bigint }>;
  snapshot(): Promise<{ services: readonly Service[]; revision: bigint }>;
}

/** What the registry needs of the store to read the specs that services had. */
export interface RevisionReader {
  /** Newest first, before the given revision. */
  page(o: { serviceUid: string; before: bigint | undefined; limit: number }): Promise<readonly SpecRevision[]>;
}

export interface ServicesOptions {
  readonly store: RegistryStore;
  readonly reader: ServiceReader;
  readonly known: Pick<KnownServices, "byName">;
  readonly revisions: RevisionReader;
  readonly processes: Processes;
  readonly keys: TokenKeys;
  readonly hostChecks: HostChecks;
  /** Addresses of our own that no url may have. */
  readonly forbidden: SpecRules["forbidden"];
  readonly clock: Clock;
  /** Called after a change of what tokens may do, before the call returns. */
  readonly onRightsChanged: (serviceUid: string) => Promise<void>;
}

export interface Changed {
  readonly service: Service;
  /** 0 of a call that only validates. */
  readonly revision: bigint;
  readonly warnings: readonly string[];
}

/** What an update changed. */
export type Difference = Pick<Outcome, "paths" | "restarts" | "before">;

export type RolledBack = Changed & Difference;

export interface Applied {
  readonly changes: readonly (Omit<Outcome, "warnings"> & { readonly name: string })[];
  readonly revision: bigint;
  readonly warnings: readonly string[];
}

/** What is registered: each change is one transaction, the change and its event. */
export class Services {
  readonly #options: ServicesOptions;
  readonly #writer: Writer;
  readonly #tools: ChangeTools;

  constructor(options: ServicesOptions) {
    this.#options = options;
    this.#writer = new Writer(options.store, options.keys, options.clock);
    const { keys, hostChecks, forbidden, clock } = options;
    this.#tools = { keys, hostChecks, forbidden, now: () => clock.now() };
  }

  async create(call: Call, request: { name: string; spec: ServiceSpecInput }): Promise<Changed> {
    const name = parseServiceName(request.name, "service_id");
    const field = "service.spec";
    return this.#change(call, async (tx) => {
      const outcome = await createService(tx, call, this.#tools, { name, spec: request.spec, setName: "", field });
      await checkDependents(tx, [{ ...outcome, field }]);
      return outcome;
    });
  }

  async get(name: string): Promise<{ service: Service; revision: bigint }> {
    const { service, revision } = await this.#options.known.byName(name);
    if (service === undefined) throw serviceNotFound(name);
    return { service, revision };
  }

  /** The matching services, of all or of these names, in the order asked for. */
  async list(request: {
    pageSize: number;
    pageToken: string;
    filter: string;
    orderBy: string;
    names: readonly string[] | undefined;
  }): Promise<{ services: Service[]; nextPageToken: string; revision: bigint }> {
    const size = pageSizeOf(request);
    const filter = parseServiceFilter(request.filter);
    const order = parseServiceOrder(request.orderBy);
    const list = ["services", request.filter, formatServiceOrder(order)];
    const token = decodePageToken(list, request.pageToken);
    const after = token === undefined ? undefined : parsePlace(order, token);
    if (token !== undefined && after === undefined) throw pageTokenInvalid();
    const names = request.names?.map(nameKey);
    const page = await this.#options.reader.page({ filter, order, names, after, limit: size + 1 });
    const last = page.services.length > size ? page.services[size - 1] : undefined;
    return {
      services: page.services.slice(0, size).map(({ service }) => service),
      nextPageToken: last === undefined ? "" : encodePageToken(list, formatPlace(last.place)),
      revision: page.revision,
    };
  }

  /** The specs that a service had, newest first. */
  async revisions(request: {
    name: string;
    pageSize: number;
    pageToken: string;
  }): Promise<{ revisions: readonly SpecRevision[]; nextPageToken: string; revision: bigint }> {
    const size = pageSizeOf(request);
    const { service, revision } = await this.get(request.name);
    const list = ["revisions", service.uid];
    const place = decodePageToken(list, request.pageToken);
    if (place !== undefined && !/^\d{1,18}$/.test(place)) throw pageTokenInvalid();
    const before = place === undefined ? undefined : BigInt(place);
    const page = await this.#options.revisions.page({ serviceUid: service.uid, before, limit: size + 1 });
    const revisions = page.slice(0, size);
    const last = page.length > size ? revisions.at(-1) : undefined;
    const nextPageToken = last === undefined ? "" : encodePageToken(list, String(last.revision));
    return { revisions, nextPageToken, revision };
  }

  /** A service and those it depends on, directly or through others, as far as they are there. */
  async withDependencies(name: string): Promise<{ services: readonly Service[]; revision: bigint }> {
    return this.#options.reader.withDependencies(name);
  }

  /** All services and the revision that they are true at together. */
  async snapshot(): Promise<{ services: readonly Service[]; revision: bigint }> {
    return this.#options.reader.snapshot();
  }

  async update(
    call: Call,
    request: {
      name: string;
      etag: string;
      spec: ServiceSpecInput;
      paths: readonly string[] | undefined;
      allowMissing: boolean;
    },
  ): Promise<Changed> {
    const field = "service.spec";
    return this.#change(call, async (tx) => {
      const outcome = await this.#updateOne(tx, call, { ...request, field });
      if (outcome.action === "create" || changesDependencies(outcome))
        await checkDependents(tx, [{ ...outcome, field }]);
      return outcome;
    });
  }

  /** Gives a service a spec that it had: an update like any other. */
  async rollBack(call: Call, request: { name: string; etag: string; revision: bigint }): Promise<RolledBack> {
    const rolledBack = await this.#writer.run(
      call,
      async (tx) => {
        const outcome = await rollBackService(tx, call, this.#tools, request);
        if (changesDependencies(outcome)) await checkDependents(tx, [{ ...outcome, field: "spec" }]);
        return outcome;
      },
      (written): RolledBack => ({ ...toChanged(written), ...differenceOf(written.value) }),
    );
    if (!call.validateOnly) await this.#options.onRightsChanged(rolledBack.service.uid);
    return rolledBack;
  }

  /** Undefined service: it was missing, and that was allowed. */
  async delete(
    call: Call,
    request: { name: string; etag: string; force: boolean; allowMissing: boolean },
  ): Promise<{ service: Service | undefined; revision: bigint }> {
    const answer = await this.#writer.run(
      call,
      async (tx) => {
        const service = await tx.serviceByName(request.name, { lock: true });
        if (service === undefined || service.name !== request.name) {
          if (request.allowMissing) return undefined;
          throw serviceNotFound(request.name);
        }
        if (!request.force && service.wish !== "deleted") await checkUnused(tx, [service]);
        return deleteService(tx, call, this.#tools, { ...request, service });
      },
      (written) => ({ service: written.value?.service, revision: written.value === undefined ? 0n : written.revision }),
    );
    if (answer.service !== undefined) await this.#options.onRightsChanged(answer.service.uid);
    return answer;
  }

  /** Makes a set of services be as listed, all or none. The plan is a dry run of the same code. */
  async apply(call: Call, request: WantedSet): Promise<Applied> {
    checkSet(request);
    const applied = await this.#writer.run(
      call,
      (tx) => applySet(tx, call, this.#tools, request),
      ({ value, revision, services }): Applied => ({
        changes: value.map((outcome) => ({
          name: outcome.service.name,
          action: outcome.action,
          ...differenceOf(outcome),
          service: services.get(outcome.service.uid) ?? asValidated(outcome),
        })),
        revision,
        warnings: value.flatMap(({ warnings }) => warnings),
      }),
    );
    if (!call.validateOnly)
      for (const { action, service } of applied.changes)
        if (action !== "unchanged") await this.#options.onRightsChanged(service.uid);
    return applied;
  }

  /** Wishes a managed service running; one that ended or waits to restart is started at once. */
  async start(call: Call, request: { name: string; etag: string }): Promise<Changed> {
    return this.#change(call, (tx) => wishService(tx, call, request, decideStart));
  }

  async stop(call: Call, request: { name: string; etag: string }): Promise<Changed> {
    return this.#change(call, (tx) => wishService(tx, call, request, decideStop));
  }

  /** Asks for a new process. */
  async restart(call: Call, request: { name: string; etag: string }): Promise<Changed> {
    return this.#change(call, (tx) => wishService(tx, call, request, decideRestart));
  }

  /** Wishes all managed services stopped that match, in one transaction; returns their names. */
  async stopAll(call: Call, request: { filter: string }): Promise<{ names: string[]; revision: bigint }> {
    const matches = serviceFilter(request.filter);
    return this.#writer.run(
      call,
      (tx) => stopServices(tx, call, matches),
      ({ value, revision }) => ({ names: value.map(({ service }) => service.name), revision }),
    );
  }

  /** Records that a client has all routes compared with the proxy, which others do. */
  async routesReconciled(call: Call, { reassert }: { reassert: boolean }): Promise<{ revision: bigint }> {
    const asked = reassert ? "all routes to be put again" : "the routes to be compared with the proxy";
    const event = eventOf(call, undefined, { type: "routes_reconciled" }, `${call.principal.name} asked for ${asked}`);
    return this.#writer.run(
      call,
      async (tx) => tx.append(event),
      ({ revision }) => ({ revision }),
    );
  }

  /** Has a signal sent to an instance of a managed service, the current one unless it is named. */
  async signal(
    call: Call,
    request: { name: string; etag: string; signal: NodeJS.Signals; instanceId: string | undefined },
  ): Promise<{ instanceId: string; revision: bigint }> {
    return this.#writer.run(
      call,
      (tx) => signalService(tx, call, this.#options.processes, request),
      ({ value, revision }) => ({ instanceId: value, revision }),
    );
  }

  /** Forgets what failed. */
  async reset(call: Call, request: { name: string; etag: string }): Promise<Changed> {
    return this.#change(call, (tx) => resetService(tx, call, request));
  }

  async #updateOne(
    tx: RegistryTransaction,
    call: Call,
    request: {
      name: string;
      etag: string;
      spec: ServiceSpecInput;
      paths: readonly string[] | undefined;
      allowMissing: boolean;
      field: string;
    },
  ): Promise<Outcome> {
    const service = await tx.serviceByName(request.name, { lock: true });
    if (service?.name === request.name) return updateService(tx, call, this.#tools, { ...request, service });
    if (!request.allowMissing) throw serviceNotFound(request.name);
    const name = parseServiceName(request.name, "service.name");
    return createService(tx, call, this.#tools, { name, spec: request.spec, setName: "", field: request.field });
  }

  async #change(call: Call, work: (tx: RegistryTransaction) => Promise<Outcome>): Promise<Changed> {
    const changed = await this.#writer.run(call, work, toChanged);
    if (!call.validateOnly) await this.#options.onRightsChanged(changed.service.uid);
    return changed;
  }
}

function changesDependencies({ paths }: Outcome): boolean {
  return paths.includes("spec.managed.depends_on");
}

function toChanged({ value, revision, services }: RegistryWritten<Outcome>): Changed {
  return { service: services.get(value.service.uid) ?? asValidated(value), revision, warnings: value.warnings };
}

/** A service that is only validated has no uid: the one that it will have is another. */
function asValidated({ action, service }: Outcome): Service {
  return action === "create" ? { ...service, uid: "" } : service;
}

function differenceOf({ paths, restarts, before }: Outcome): Difference {
  return { paths, restarts, ...(before === undefined ? {} : { before }) };
}
