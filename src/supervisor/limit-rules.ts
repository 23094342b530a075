import { AppError, type FieldViolation } from "../domain/errors.ts";
import { type Limits, limitFields } from "../domain/limits.ts";
import type { ControlGroups, Controller } from "./control-groups.ts";
import { maySet, type ProcessLimit } from "./rlimits.ts";

export interface LimitRulesOptions {
  /** Undefined: there are none. */
  readonly groups: ControlGroups | undefined;
  /** Whether a limit without effect here is refused, or told and left out. */
  readonly unenforced: "refuse" | "report";
}

/** The limits that have an effect, and those that have none, in words. */
export interface HeldLimits {
  readonly limits: Limits;
  readonly unenforced: string;
}

/** The one place that decides which limits this host can hold a service to. */
export class LimitRules {
  readonly #options: LimitRulesOptions;
  readonly #tried = new Map<string, boolean>();

  constructor(options: LimitRulesOptions) {
    this.#options = options;
  }

  /**
   * What is left of the limits for a process of this uid. Throws failed_precondition that names the fields, below `field`, unless what has no effect is only to
   * be told.
   */
  async apply(limits: Limits, uid: number, field: string): Promise<HeldLimits> {
    const held: { -readonly [K in keyof Limits]: Limits[K] } = {};
    const violations: FieldViolation[] = [];
    for (const name of limitNames) {
      const value = limits[name];
      if (value === undefined) continue;
      const obstacle = await this.#obstacle(name, value, uid);
      if (obstacle === undefined) held[name] = value;
      else violations.push({ field: `${field}.${limitFields[name]}`, description: obstacle });
    }
    const unenforced = violations.map(inWords).join("; ");
    if (violations.length > 0 && this.#options.unenforced === "refuse") throw refusal(violations, unenforced);
    return { limits: held, unenforced };
  }

  async #obstacle(name: keyof Limits, value: number, uid: number): Promise<string | undefined> {
    switch (name) {
      case "memoryBytes":
        return this.#controls("memory");
      case "cpuMillis":
        return this.#controls("cpu");
      case "processes":
        if (this.#controls("pids") === undefined) return undefined;
        return uid === 0 ? `needs ${controllerOf("pids")}, for a service of root` : this.#mayNotSet(name, value);
      case "openFiles":
      case "addressSpaceBytes":
      case "coreBytes":
      case "nice":
        return this.#mayNotSet(name, value);
    }
  }

  #controls(controller: Controller): string | undefined {
    return this.#options.groups?.has(controller) ? undefined : `needs ${controllerOf(controller)}`;
  }

  async #mayNotSet(name: ProcessLimit, value: number): Promise<string | undefined> {
    const key = `${name} ${value}`;
    const may = this.#tried.get(key) ?? (await maySet(name, value));
    this.#tried.set(key, may);
    return may ? undefined : `Steward may not set ${value} on this host`;
  }
}

const limitNames: readonly (keyof Limits)[] = [
  "memoryBytes",
  "cpuMillis",
  "processes",
  "openFiles",
  "addressSpaceBytes",
  "coreBytes",
  "nice",
];

function controllerOf(controller: Controller): string {
  return `the ${controller} controller of a cgroup v2 that Steward may write`;
}

function inWords({ field, description }: FieldViolation): string {
  return `${field.split(".").at(-1)} ${description}`;
}

function refusal(violations: readonly FieldViolation[], unenforced: string): AppError {
  const message = `this host cannot enforce limits of the service: ${unenforced}`;
  return new AppError("failed_precondition", "LIMIT_NOT_ENFORCEABLE", message, { violations });
}
