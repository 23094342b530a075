import { stat } from "node:fs/promises";
import { AppError, invalid } from "../domain/errors.ts";
import type { ManagedSpec, ServiceSpec } from "../domain/service.ts";
import type { Accounts } from "./account.ts";
import { resolveCommand } from "./command.ts";
import type { LimitRules } from "./limit-rules.ts";

export interface HostChecksOptions {
  readonly accounts: Accounts;
  readonly limitRules: LimitRules;
  /** The PATH that services get unless their spec sets one. */
  readonly path: string | undefined;
}

/** What this host can say of a spec before it is registered, instead of at its first start. */
export class HostChecks {
  readonly #options: HostChecksOptions;

  constructor(options: HostChecksOptions) {
    this.#options = options;
  }

  /** Throws an AppError that names the field below `field`, if a process of this spec could not be started here. Resolves with warnings. */
  async check(spec: ServiceSpec, field: string): Promise<string[]> {
    if (spec.kind.type === "external") return [];
    if (process.platform !== "linux")
      throw new AppError("failed_precondition", "PLATFORM_UNSUPPORTED", "managed services need Linux");
    try {
      return await this.#checkManaged(spec.kind);
    } catch (error) {
      throw error instanceof AppError ? below(error, `${field}.managed`) : error;
    }
  }

  async #checkManaged(kind: ManagedSpec): Promise<string[]> {
    const { accounts, limitRules, path } = this.#options;
    const account = kind.user === undefined ? undefined : await accounts.resolve(kind.user);
    if (kind.cwd !== undefined) await checkDirectory(kind.cwd);
    const other = account !== undefined && accounts.isOther(account) ? account : undefined;
    await resolveCommand({
      command: kind.command[0],
      cwd: kind.cwd,
      path: kind.environment["PATH"] ?? path,
      account: other,
    });
    const { unenforced } = await limitRules.apply(kind.limits, accounts.uidOf(account), "limits");
    return unenforced === "" ? [] : [`not enforced on this host: ${unenforced}`];
  }
}

async function checkDirectory(cwd: string): Promise<void> {
  const found = await stat(cwd).catch(() => undefined);
  if (found === undefined)
    throw invalid({ field: "cwd", description: `there is no directory ${JSON.stringify(cwd)} on this host` });
  if (!found.isDirectory()) throw invalid({ field: "cwd", description: `${JSON.stringify(cwd)} is not a directory` });
}

/** The same error with its fields where they stand in the request. */
function below(error: AppError, parent: string): AppError {
  const violations = error.violations.map(({ field, description }) => ({
    field: `${parent}.${field.replace("service.spec.managed.", "")}`,
    description,
  }));
  const [first, ...rest] = violations;
  if (first === undefined) return error;
  if (error.code === "invalid_argument") return invalid(first, ...rest);
  return new AppError(error.code, error.reason, error.message, { metadata: error.metadata, violations });
}
