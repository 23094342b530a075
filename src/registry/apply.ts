import { invalid, serviceNotFound } from "../domain/errors.ts";
import { nameKey, parseServiceName } from "../domain/service-name.ts";
import type { ServiceSpecInput } from "../domain/service-spec.ts";
import type { Call } from "./call.ts";
import { type ChangeTools, createService, deleteService, type Outcome, updateService } from "./changes.ts";
import { checkDependents, checkUnused } from "./dependencies.ts";
import type { RegistryTransaction } from "./writer.ts";

/** A service as Apply wants it. */
export interface WantedService {
  readonly name: string;
  /** Only if it still is as this etag says. Empty or undefined: however it is. */
  readonly etag?: string;
  readonly spec: ServiceSpecInput;
}

export interface WantedSet {
  readonly services: readonly WantedService[];
  /** Empty: services of a set stay its own. */
  readonly setName: string;
  /** Delete what the set has and is not listed. */
  readonly prune: boolean;
}

/** Throws invalid_argument for a set that contradicts itself. */
export function checkSet({ services, setName, prune }: WantedSet): void {
  checkDistinct(services);
  if (prune && setName === "")
    throw invalid({
      field: "set_name",
      description: "must be given to prune: only a set's own services are deleted",
    });
}

/** Makes services be as listed; returns what was done to each, in the order of the list, and what was deleted. */
export async function applySet(
  tx: RegistryTransaction,
  call: Call,
  tools: ChangeTools,
  request: WantedSet,
): Promise<Outcome[]> {
  const indexed = request.services.map((wanted, index) => ({ ...wanted, index }));
  const outcomes: Outcome[] = [];
  // Two applies at once lock in one order, by name, and so cannot deadlock.
  for (const { index, ...wanted } of indexed.toSorted((a, b) => (nameKey(a.name) < nameKey(b.name) ? -1 : 1))) {
    const { setName } = request;
    outcomes[index] = await applyOne(tx, call, tools, { ...wanted, setName, field: `services[${index}]` });
  }
  const dependents = outcomes.map((outcome, index) => ({ ...outcome, field: `services[${index}].spec` }));
  const pruned = request.prune ? await pruneSet(tx, call, tools, request) : [];
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

async function applyOne(
  tx: RegistryTransaction,
  call: Call,
  tools: ChangeTools,
  wanted: WantedService & { setName: string; field: string },
): Promise<Outcome> {
  const { spec, setName, etag = "" } = wanted;
  const field = `${wanted.field}.spec`;
  const name = parseServiceName(wanted.name, `${wanted.field}.name`);
  const service = await tx.serviceByName(name, { lock: true });
  if (service?.name !== name) {
    // What is gone is not as it was.
    if (etag !== "") throw serviceNotFound(name);
    return createService(tx, call, tools, { name, spec, setName, field });
  }
  // Who names no set says nothing about sets: a service of one stays its own.
  const set = setName === "" ? {} : { setName };
  return updateService(tx, call, tools, { service, spec, paths: ["*"], etag, ...set, field });
}

async function pruneSet(
  tx: RegistryTransaction,
  call: Call,
  tools: ChangeTools,
  { services, setName }: WantedSet,
): Promise<Outcome[]> {
  const listed = new Set(services.map(({ name }) => nameKey(name)));
  const pruned: Outcome[] = [];
  for (const service of await tx.servicesOfSet(setName)) {
    if (listed.has(nameKey(service.name)) || service.wish === "deleted") continue;
    pruned.push(await deleteService(tx, call, tools, { service, etag: "", force: true }));
  }
  return pruned;
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
