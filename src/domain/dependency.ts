import type { FieldViolation } from "./errors.ts";
import { isManaged, type Service } from "./service.ts";
import { nameKey } from "./service-name.ts";

/** Another service that must be so before a start. */
export interface Dependency {
  readonly service: string;
  readonly condition: DependencyCondition;
}

export type DependencyCondition = "started" | "ready" | "completed";

/** A dependency that is not as it must be, and how it is. */
export interface Waiting extends Dependency {
  readonly message: string;
}

/** Adds what is wrong to `violations`: a dependency on itself, the same one twice. Whether they exist, only the registry knows. */
export function checkDependencies(
  name: string,
  dependencies: readonly Dependency[],
  field: string,
  violations: FieldViolation[],
): void {
  const seen = new Set<string>();
  dependencies.forEach(({ service }, index) => {
    const at = `${field}[${index}].service`;
    if (nameKey(service) === nameKey(name))
      violations.push({ field: at, description: "a service cannot depend on itself" });
    if (seen.has(nameKey(service)))
      violations.push({ field: at, description: `${JSON.stringify(service)} is named twice` });
    seen.add(nameKey(service));
  });
}

/** Which dependencies are not as they must be. Whoever is not there is waited for as well. */
export function unmet(dependencies: readonly Dependency[], find: (name: string) => Service | undefined): Waiting[] {
  return dependencies.flatMap((dependency) => {
    const service = find(dependency.service);
    const message = service === undefined ? "there is no such service" : lacks(service, dependency.condition);
    return message === undefined ? [] : [{ ...dependency, message }];
  });
}

/** A circle among who depends on whom that goes through one of these names, as the names in it; undefined: there is none. */
export function findCircle(
  from: Iterable<string>,
  dependenciesOf: (name: string) => readonly string[],
): string[] | undefined {
  const done = new Set<string>();
  const walk = (name: string, path: readonly string[]): string[] | undefined => {
    const begin = path.indexOf(name);
    if (begin >= 0) return [...path.slice(begin), name];
    if (done.has(name)) return undefined;
    for (const next of dependenciesOf(name)) {
      const circle = walk(next, [...path, name]);
      if (circle !== undefined) return circle;
    }
    done.add(name);
    return undefined;
  };
  for (const name of from) {
    const circle = walk(name, []);
    if (circle !== undefined) return circle;
  }
  return undefined;
}

/** What a service lacks to be as it must be; undefined: nothing. */
function lacks(service: Service, condition: DependencyCondition): string | undefined {
  const { status, wish } = service;
  const current = status.observedGeneration >= service.generation && wish === "running";
  switch (condition) {
    case "started":
      return !isManaged(service) ||
        status.state === "running" ||
        (status.state === "starting" && status.pid !== undefined)
        ? undefined
        : `is ${status.state}, not started`;
    case "ready":
      return isReady(service) ? undefined : `is ${status.state}, not ready`;
    case "completed":
      return status.state === "completed" && current ? undefined : `is ${status.state}, not completed`;
  }
}

function isReady(service: Service): boolean {
  const { kind } = service.spec;
  if (kind.type === "managed") return service.status.state === "running" && service.status.ready;
  return service.status.ready || (kind.probe === undefined && service.spec.url === undefined);
}
