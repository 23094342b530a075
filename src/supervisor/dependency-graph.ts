import { unmet, type Waiting } from "../domain/dependency.ts";
import { isManaged, type ManagedService, type Service } from "../domain/service.ts";
import { nameKey } from "../domain/service-name.ts";

/** Who depends on whom, and how everybody is now. */
export class DependencyGraph {
  readonly #services = new Map<string, Service>();
  /** The uids of those which depend on a name. */
  readonly #dependents = new Map<string, Set<string>>();

  note(service: Service): void {
    const key = nameKey(service.name);
    const before = this.#services.get(key);
    if (before !== undefined && before.uid === service.uid && before.revision > service.revision) return;
    this.#services.set(key, service);
    if (before?.uid === service.uid && before.version === service.version) return;
    if (before !== undefined) this.#detach(before);
    for (const name of dependenciesOf(service)) this.#of(name).add(service.uid);
  }

  forget({ name, uid }: Pick<Service, "name" | "uid">): void {
    const known = this.#services.get(nameKey(name));
    if (known?.uid !== uid) return;
    this.#services.delete(nameKey(name));
    this.#detach(known);
  }

  unmet({ spec }: ManagedService): Waiting[] {
    return unmet(spec.kind.dependsOn, (name) => this.#services.get(nameKey(name)));
  }

  dependentsOf(name: string): string[] {
    return [...(this.#dependents.get(nameKey(name)) ?? [])];
  }

  #detach(service: Service): void {
    for (const name of dependenciesOf(service)) {
      const uids = this.#of(name);
      uids.delete(service.uid);
      if (uids.size === 0) this.#dependents.delete(nameKey(name));
    }
  }

  #of(name: string): Set<string> {
    const key = nameKey(name);
    const known = this.#dependents.get(key) ?? new Set<string>();
    this.#dependents.set(key, known);
    return known;
  }
}

function dependenciesOf(service: Service): string[] {
  return isManaged(service) ? service.spec.kind.dependsOn.map((dependency) => dependency.service) : [];
}
