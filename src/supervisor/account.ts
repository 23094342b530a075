import { AppError, invalid } from "../domain/errors.ts";
import { runTool } from "./spawn.ts";

/** An entry of the system's user database. */
export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
  readonly shell: string;
}

export interface AccountRules {
  /** Steward's own user id. */
  readonly ownUid: number;
  /** Whether a service may name root. */
  readonly allowRoot: boolean;
}

/**
 * Who services may run as. An answer of the user database, which may be a directory server, is believed for
 * `rememberMs`, so that starting a thousand services does not ask it a thousand times.
 */
export class Accounts {
  readonly #rules: AccountRules;
  readonly #monotonicMs: () => number;
  readonly #rememberMs: number;
  readonly #known = new Map<string, { readonly at: number; readonly account: Promise<Account | undefined> }>();

  constructor(rules: AccountRules, { monotonicMs = () => performance.now(), rememberMs = 10_000 } = {}) {
    this.#rules = rules;
    this.#monotonicMs = monotonicMs;
    this.#rememberMs = rememberMs;
  }

  /**
   * The account of the `user` field. Throws invalid_argument for an unknown name, failed_precondition when Steward may
   * not become that user.
   */
  async resolve(user: string): Promise<Account> {
    const account = await this.#lookUp(user);
    if (account === undefined || account.name !== user) {
      throw invalid({
        field: "service.spec.managed.user",
        description: `no user ${JSON.stringify(user)} on this host`,
      });
    }
    this.#checkAllowed(account);
    return account;
  }

  /** Steward's own account; undefined where its uid has no entry, as in some containers. */
  own(): Promise<Account | undefined> {
    return this.#lookUp(String(this.#rules.ownUid));
  }

  /** Whether running as this account takes a switch at all. */
  isOther(account: Account): boolean {
    return account.uid !== this.#rules.ownUid;
  }

  #checkAllowed(account: Account): void {
    const { ownUid, allowRoot } = this.#rules;
    if (ownUid !== 0 && account.uid !== ownUid) {
      throw refused(account.name, `Steward does not run as root and cannot become user ${account.name}`);
    }
    if (account.uid === 0 && !allowRoot) {
      throw refused(account.name, "services may not name root as their user on this node");
    }
  }

  #lookUp(key: string): Promise<Account | undefined> {
    const now = this.#monotonicMs();
    const known = this.#known.get(key);
    if (known !== undefined && now - known.at < this.#rememberMs) return known.account;
    const account = lookUpAccount(key);
    this.#known.set(key, { at: now, account });
    account.catch(() => this.#known.delete(key));
    return account;
  }
}

/** Asks the user database for a name or a uid. */
export async function lookUpAccount(key: string): Promise<Account | undefined> {
  const { status, output, errorOutput } = await runTool("/usr/bin/getent", ["passwd", "--", key]);
  if (status === 0) return parseAccount(output);
  if (status === 2) return undefined;
  throw new Error(`getent passwd failed with status ${status}: ${errorOutput}`);
}

/** A line of passwd(5). */
export function parseAccount(line: string): Account | undefined {
  const [name, , uid, gid, , home, shell] = line.trim().split(":");
  if (name === undefined || uid === undefined || gid === undefined) return undefined;
  return { name, uid: Number(uid), gid: Number(gid), home: home ?? "", shell: shell ?? "" };
}

function refused(user: string, message: string): AppError {
  return new AppError("failed_precondition", "USER_SWITCH_NOT_ALLOWED", message, { metadata: { user } });
}
