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
 * Who services may run as. An answer of the user database, which may be a directory server, is believed for `rememberMs`, so that starting a
 * thousand services does not ask it a thousand times. An older one is believed once more while it is asked again, for `believeMs` at most: a
 * restart does not wait for it.
 */
export class Accounts {
  readonly #rules: AccountRules;
  readonly #monotonicMs: () => number;
  readonly #rememberMs: number;
  readonly #believeMs: number;
  readonly #lookUpAccount: typeof lookUpAccount;
  readonly #known = new Map<string, Known>();

  constructor(
    rules: AccountRules,
    { monotonicMs = () => performance.now(), rememberMs = 10_000, believeMs = 600_000, lookUp = lookUpAccount } = {},
  ) {
    this.#lookUpAccount = lookUp;
    this.#rules = rules;
    this.#monotonicMs = monotonicMs;
    this.#rememberMs = rememberMs;
    this.#believeMs = believeMs;
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

  get ownUid(): number {
    return this.#rules.ownUid;
  }

  /** Steward's own account; undefined where its uid has no entry, as in some containers. */
  own(): Promise<Account | undefined> {
    return this.#lookUp(String(this.#rules.ownUid));
  }

  /** Whether running as this account takes a switch at all. */
  isOther(account: Account): boolean {
    return account.uid !== this.#rules.ownUid;
  }

  /** As which uid a process runs: undefined is nobody else's account. */
  uidOf(account: Account | undefined): number {
    return account?.uid ?? this.#rules.ownUid;
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
    const known = this.#known.get(key);
    const ageMs = known === undefined ? Number.POSITIVE_INFINITY : this.#monotonicMs() - known.at;
    if (known !== undefined && ageMs < this.#rememberMs) return known.account;
    const asked = this.#ask(key, known);
    return known !== undefined && ageMs < this.#believeMs ? known.account : asked;
  }

  /** Asks anew. A failure leaves what was known before. */
  #ask(key: string, before: Known | undefined): Promise<Account | undefined> {
    const entry = { at: this.#monotonicMs(), account: this.#lookUpAccount(key) };
    this.#known.set(key, entry);
    entry.account.catch(() => {
      if (this.#known.get(key) !== entry) return;
      if (before === undefined) this.#known.delete(key);
      else this.#known.set(key, before);
    });
    return entry.account;
  }
}

interface Known {
  readonly at: number;
  readonly account: Promise<Account | undefined>;
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
