import type { Clock } from "../domain/clock.ts";
import { AppError, invalid, serviceNotFound } from "../domain/errors.ts";
import { serviceFilter } from "../domain/filter.ts";
import { decodePageToken, encodePageToken, pageSizeOf } from "../domain/page.ts";
import { isManaged, type Service } from "../domain/service.ts";
import { nameKey, parseServiceName } from "../domain/service-name.ts";
import type { ServiceSpecInput, SpecRules } from "../domain/service-spec.ts";
import { endedStates } from "../domain/status.ts";
import type { TokenKeys } from "../domain/token-secret.ts";
import { type Call, checkEtag, checkNotDeleting, eventOf } from "./call.ts";
import {
  type ChangeTools,
  createService,
  deleteService,
  type HostChecks,
  lockService,
  type Outcome,
  updateService,
} from "./changes.ts";
import { type RegistryStore, type RegistryTransaction, type RegistryWritten, Writer } from "./writer.ts";

/** What the registry needs of the store to read services. */
export interface ServiceReader {
  byName(name: string): Promise<{ service: Service | undefined; revision: bigint }>;
  page(o: {
    afterName: string | undefined;
    limit: number;
  }): Promise<{ services: readonly Service[]; revision: bigint }>;
  snapshot(): Promise<{ services: readonly Service[]; revision: bigint }>;
}

export interface ServicesOptions {
  readonly store: RegistryStore;
  readonly reader: ServiceReader;
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
    return this.#change(call, (tx) =>
      createService(tx, call, this.#tools, { name, spec: request.spec, setName: "", field: "service.spec" }),
    );
  }

  async get(name: string): Promise<{ service: Service; revision: bigint }> {
    const { service, revision } = await this.#options.reader.byName(name);
    if (service === undefined) throw serviceNotFound(name);
    return { service, revision };
  }

  /** The matching services that `visible` lets through, by name. */
  async list(request: {
    pageSize: number;
    pageToken: string;
    filter: string;
    visible: (service: Service) => boolean;
  }): Promise<{ services: Service[]; nextPageToken: string; revision: bigint }> {
    const size = pageSizeOf(request);
    const list = ["services", request.filter];
    const matches = serviceFilter(request.filter);
    const services: Service[] = [];
    let afterName = decodePageToken(list, request.pageToken);
    let revision: bigint | undefined;
    for (;;) {
      const page = await this.#options.reader.page({ afterName, limit: size + 1 });
      revision ??= page.revision;
      for (const service of page.services) {
        if (!matches(service) || !request.visible(service)) continue;
        if (services.length === size) {
          const nextPageToken = encodePageToken(list, services[size - 1]?.name ?? "");
          return { services, nextPageToken, revision };
        }
        services.push(service);
      }
      afterName = page.services.at(-1)?.name;
      if (page.services.length <= size) return { services, nextPageToken: "", revision };
    }
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
      const service = await tx.serviceByName(request.name, { lock: true });
      if (service?.name === request.name) return updateService(tx, call, this.#tools, { ...request, service, field });
      if (!request.allowMissing) throw serviceNotFound(request.name);
      const name = parseServiceName(request.name, "service.name");
      return createService(tx, call, this.#tools, { name, spec: request.spec, setName: "", field });
    });
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
        return deleteService(tx, call, this.#tools, { ...request, service });
      },
      (written) => ({ service: written.value?.service, revision: written.value === undefined ? 0n : written.revision }),
    );
    if (answer.service !== undefined) await this.#options.onRightsChanged(answer.service.uid);
    return answer;
  }

  /** Makes a set of services be as listed, all or none. The plan is a dry run of the same code. */
  async apply(
    call: Call,
    request: { services: readonly { name: string; spec: ServiceSpecInput }[]; setName: string; prune: boolean },
  ): Promise<Applied> {
    checkDistinct(request.services);
    if (request.prune && request.setName === "")
      throw invalid({
        field: "set_name",
        description: "must be given to prune: only a set's own services are deleted",
      });
    const applied = await this.#writer.run(
      call,
      (tx) => this.#applyAll(tx, call, request),
      ({ value, revision, services }): Applied => ({
        changes: value.map(({ action, paths, restarts, service }) => ({
          name: service.name,
          action,
          paths,
          restarts,
          service: services.get(service.uid) ?? service,
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
    return this.#wish(call, request, (service) => {
      const rests =
        endedStates.has(service.status.state) || ["backing_off", "crash_loop"].includes(service.status.state);
      if (service.wish === "running" && !rests) return undefined;
      return { wish: "running", generation: service.generation + 1 };
    });
  }

  async stop(call: Call, request: { name: string; etag: string }): Promise<Changed> {
    return this.#wish(call, request, (service) =>
      service.wish === "stopped" ? undefined : { wish: "stopped", generation: service.generation },
    );
  }

  /** Asks for a new process. */
  async restart(call: Call, request: { name: string; etag: string }): Promise<Changed> {
    return this.#wish(call, request, (service) => ({ wish: "running", generation: service.generation + 1 }));
  }

  async #wish(
    call: Call,
    request: { name: string; etag: string },
    decide: (service: Service) => { wish: "running" | "stopped"; generation: number } | undefined,
  ): Promise<Changed> {
    return this.#change(call, async (tx) => {
      const service = await lockService(tx, request.name);
      checkNotDeleting(service);
      checkEtag(service, request.etag);
      if (!isManaged(service)) throw notManaged(service);
      const decision = decide(service);
      const outcome = { paths: [], restarts: false, warnings: [] } as const;
      if (decision === undefined) return { ...outcome, action: "unchanged", service };
      await tx.updateService(service, { ...decision, version: service.version + 1 });
      const changed = { ...service, ...decision, version: service.version + 1 };
      tx.append(
        eventOf(
          call,
          changed,
          { type: "wish_changed", wish: decision.wish },
          `${call.principal.name} asked for ${call.method.split("/").at(-1)?.toLowerCase() ?? "it"}`,
        ),
      );
      return { ...outcome, action: "update", service: changed };
    });
  }

  async #applyAll(
    tx: RegistryTransaction,
    call: Call,
    request: { services: readonly { name: string; spec: ServiceSpecInput }[]; setName: string; prune: boolean },
  ): Promise<Outcome[]> {
    const indexed = request.services.map((wanted, index) => ({ ...wanted, index }));
    const outcomes: Outcome[] = [];
    // Two applies at once lock in one order, by name, and so cannot deadlock.
    for (const { name, spec, index } of indexed.toSorted((a, b) => (nameKey(a.name) < nameKey(b.name) ? -1 : 1))) {
      outcomes[index] = await this.#applyOne(tx, call, {
        name,
        spec,
        setName: request.setName,
        field: `services[${index}]`,
      });
    }
    if (!request.prune) return outcomes;
    const listed = new Set(request.services.map(({ name }) => nameKey(name)));
    for (const service of await tx.servicesOfSet(request.setName)) {
      if (listed.has(nameKey(service.name)) || service.wish === "deleted") continue;
      outcomes.push(await deleteService(tx, call, this.#tools, { service, etag: "", force: true }));
    }
    return outcomes;
  }

  async #applyOne(
    tx: RegistryTransaction,
    call: Call,
    wanted: { name: string; spec: ServiceSpecInput; setName: string; field: string },
  ): Promise<Outcome> {
    const { spec, setName } = wanted;
    const field = `${wanted.field}.spec`;
    const name = parseServiceName(wanted.name, `${wanted.field}.name`);
    const service = await tx.serviceByName(name, { lock: true });
    if (service?.name !== name) return createService(tx, call, this.#tools, { name, spec, setName, field });
    // Who names no set says nothing about sets: a service of one stays its own.
    const set = setName === "" ? {} : { setName };
    return updateService(tx, call, this.#tools, { service, spec, paths: ["*"], etag: "", ...set, field });
  }

  async #change(call: Call, work: (tx: RegistryTransaction) => Promise<Outcome>): Promise<Changed> {
    const changed = await this.#writer.run(call, work, toChanged);
    if (!call.validateOnly) await this.#options.onRightsChanged(changed.service.uid);
    return changed;
  }
}

function toChanged({ value, revision, services }: RegistryWritten<Outcome>): Changed {
  return { service: services.get(value.service.uid) ?? value.service, revision, warnings: value.warnings };
}

function checkDistinct(services: readonly { name: string }[]): void {
  const seen = new Map<string, number>();
  for (const [index, { name }] of services.entries()) {
    const first = seen.get(nameKey(name));
    if (first !== undefined)
      throw invalid({
        field: `services[${index}].name`,
        description: `${JSON.stringify(name)} is also services[${first}]`,
      });
    seen.set(nameKey(name), index);
  }
}

function notManaged(service: Service): AppError {
  return new AppError(
    "failed_precondition",
    "SERVICE_NOT_MANAGED",
    `${service.name} is managed by somebody else; Steward does not run its process`,
    {
      metadata: { service: service.name },
      resource: { type: "service", name: service.name },
    },
  );
}
