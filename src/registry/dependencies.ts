import { findCircle } from "../domain/dependency.ts";
import { AppError, type FieldViolation, invalid } from "../domain/errors.ts";
import type { Service } from "../domain/service.ts";
import { nameKey } from "../domain/service-name.ts";
import type { RegistryTransaction } from "./writer.ts";

/** A service whose dependencies are new, and where its spec stands in the request. */
export interface Dependent {
  readonly service: Service;
  readonly field: string;
}

/**
 * What only all services together can tell, once the changes of a transaction are made: that every dependency exists and that there is no circle.
 * Throws invalid_argument. Whoever changes dependencies takes turns, so that two changes cannot close a circle that neither saw.
 */
export async function checkDependents(tx: RegistryTransaction, dependents: readonly Dependent[]): Promise<void> {
  const named = dependents.filter(({ service }) => namesIn(service).length > 0);
  if (named.length === 0) return;
  const graph = await tx.dependencies();
  const [first, ...rest] = named.flatMap((dependent) => missing(dependent, graph));
  if (first !== undefined) throw invalid(first, ...rest);
  for (const { service, field } of named) {
    const circle = findCircle([nameKey(service.name)], (key) => graph.get(key) ?? []);
    if (circle === undefined) continue;
    throw invalid({ field: `${field}.managed.depends_on`, description: `would make a circle: ${circle.join(" -> ")}` });
  }
}

/** Throws failed_precondition when others, that stay, depend on what is deleted. */
export async function checkUnused(tx: RegistryTransaction, deleted: readonly Service[]): Promise<void> {
  if (deleted.length === 0) return;
  const keys = new Set(deleted.map(({ name }) => nameKey(name)));
  const users = [...(await tx.dependencies())].filter(
    ([key, names]) => !keys.has(key) && names.some((name) => keys.has(name)),
  );
  if (users.length === 0) return;
  const names = users
    .map(([key]) => key)
    .sort()
    .join(", ");
  const of = deleted.map(({ name }) => name).join(", ");
  throw new AppError(
    "failed_precondition",
    "SERVICE_IN_USE",
    `${names} depend on ${of}; change them first, or delete with force`,
    {
      metadata: { service: of, dependents: names },
    },
  );
}

function missing({ service, field }: Dependent, graph: ReadonlyMap<string, readonly string[]>): FieldViolation[] {
  return namesIn(service).flatMap((name, index) =>
    graph.has(nameKey(name))
      ? []
      : [
          {
            field: `${field}.managed.depends_on[${index}].service`,
            description: `there is no service ${JSON.stringify(name)}`,
          },
        ],
  );
}

function namesIn({ spec }: Service): string[] {
  return spec.kind.type === "managed" ? spec.kind.dependsOn.map(({ service }) => service) : [];
}
