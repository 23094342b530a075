import type { Clock } from "../domain/clock.ts";
import { invalid, serviceNotFound } from "../domain/errors.ts";
import { serviceFilter } from "../domain/filter.ts";
import { decodePageToken, encodePageToken, pageSizeOf } from "../domain/page.ts";
import type { Service } from "../domain/service.ts";
import { nameKey, parseServiceName } from "../domain/service-name.ts";
import type { ServiceSpecInput, SpecRules } from "../domain/service-spec.ts";
import type { TokenKeys } from "../domain/token-secret.ts";
import type { Call } from "./call.ts";
import {
  type ChangeTools,
  createService,
  deleteService,
  type HostChecks,
  type Outcome,
  updateService,
} from "./changes.ts";
import { checkDependents, checkUnused } from "./dependencies.ts";
import { decideRestart, decideStart, decideStop, resetService, stopServices, wishService } from "./wishes.ts";
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
    const field = "service.spec";
    return this.#change(call, async (tx) => {
      const outcome = await createService(tx, call, this.#tools, { name, spec: request.spec, setName: "", field });
      await checkDependents(tx, [{ ...outcome, field }]);
      return outcome;
    });
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
      const outcome = await this.#updateOne(tx, call, { ...request, field });
      if (outcome.action === "create" || changesDependencies(outcome))
        await checkDependents(tx, [{ ...outcome, field }]);
      return outcome;
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
        if (!request.force && service.wish !== "deleted") await checkUnused(tx, [service]);
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

  /** Forgets what failed. */
  async reset(call: Call, request: { name: string; etag: string }): Promise<Changed> {
    return this.#change(call, (tx) => resetService(tx, call, request));
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
    const dependents = outcomes.map((outcome, index) => ({ ...outcome, field: `services[${index}].spec` }));
    const pruned = request.prune ? await this.#prune(tx, call, request) : [];
    await checkDependents(
      tx,
      dependents.filter(({ action }) => action !== "unchanged"),
    );
    await checkUnused(
      tx,
      pruned.map(({ service }) => service),
    );
    return [...outcomes, ...pruned];
  }

  /** Deletes what the set has and the request does not list. */
  async #prune(
    tx: RegistryTransaction,
    call: Call,
    { services, setName }: { services: readonly { name: string }[]; setName: string },
  ): Promise<Outcome[]> {
    const listed = new Set(services.map(({ name }) => nameKey(name)));
    const pruned: Outcome[] = [];
    for (const service of await tx.servicesOfSet(setName)) {
      if (listed.has(nameKey(service.name)) || service.wish === "deleted") continue;
      pruned.push(await deleteService(tx, call, this.#tools, { service, etag: "", force: true }));
    }
    return pruned;
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

function changesDependencies({ paths }: Outcome): boolean {
  return paths.includes("spec.managed.depends_on");
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
