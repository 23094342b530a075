import { chmod, chown } from "node:fs/promises";
import { userInfo } from "node:os";
import { execa } from "execa";
import { type Binaries, isMusl, otherwise } from "./embedded-binaries.ts";
import { programEnvironment, runProgram } from "./embedded-command.ts";

/** As whom Postgres runs. Postgres refuses to run as root. */
export interface Identity {
  /** How messages call it. */
  readonly name: string;
  /** The owner of its files, as Steward sees them. */
  readonly uid: number;
  readonly gid: number;
  /** A command line of setpriv, up to its options for the program. */
  readonly prefix: readonly [string, ...string[]];
}

/** An identity that has proven to work, and the Postgres it found. */
export interface ProvenIdentity {
  readonly identity: Identity;
  readonly majorVersion: string;
}

export interface IdentityWish {
  readonly binaries: Binaries;
  /** Steward's directory around the database; opened for the group of the chosen identity. */
  readonly home: string;
  /** A directory in `home`, to try programs in. */
  readonly tryIn: string;
  /** This account and no other. */
  readonly user?: string | undefined;
}

/**
 * Picks the first identity as which the binaries really run. An ordinary user is itself. Root becomes the account asked
 * for, else `postgres` where there is one, else nobody in a user namespace, where it is still root to its own files.
 * Accounts are never created. Throws an Error that says what was tried and what to do.
 */
export async function chooseIdentity(wish: IdentityWish): Promise<ProvenIdentity> {
  const failures: string[] = [];
  for (const identity of await candidates(wish.user)) {
    try {
      await letThrough(wish.home, identity);
      return { identity, majorVersion: await probe(wish, identity) };
    } catch (error) {
      failures.push(`${identity.name}: ${firstLine(error)}`);
    }
  }
  throw new Error(await explain(wish, failures));
}

async function candidates(user: string | undefined): Promise<readonly Identity[]> {
  const ourselves = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  const account = await lookUp(user ?? "postgres");
  if (user !== undefined) return [asNamed(user, account, ourselves)];
  // initdb needs its user to have a name, which an arbitrary uid in a container has not.
  if (ourselves.uid !== 0) return [hasName() ? asOurselves(ourselves) : inNamespace(ourselves)];
  return account === undefined ? [inNamespace(ourselves)] : [asAccount("postgres", account), inNamespace(ourselves)];
}

function asNamed(user: string, account: Owner | undefined, ourselves: Owner): Identity {
  if (account === undefined) throw new Error(`there is no user ${user} to run the database as (--database-user)`);
  if (account.uid === 0)
    throw new Error(`Postgres refuses to run as root: name another user than ${user} (--database-user)`);
  if (account.uid === ourselves.uid) return asOurselves(ourselves);
  if (ourselves.uid !== 0) throw new Error(`only root can run the database as another user (--database-user ${user})`);
  return asAccount(user, account);
}

function asOurselves(owner: Owner): Identity {
  return { name: "this user", ...owner, prefix: ["setpriv", "--no-new-privs"] };
}

function asAccount(user: string, owner: Owner): Identity {
  const { uid, gid } = owner;
  const prefix = ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--init-groups", "--no-new-privs"] as const;
  return { name: `user ${user}`, uid, gid, prefix };
}

function inNamespace(owner: Owner): Identity {
  const prefix = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "setpriv", "--no-new-privs"] as const;
  return { name: "a user namespace", ...owner, prefix };
}

interface Owner {
  readonly uid: number;
  readonly gid: number;
}

async function lookUp(user: string): Promise<Owner | undefined> {
  const found = await execa("getent", ["passwd", user], { env: programEnvironment, extendEnv: false, reject: false });
  const [, , uid, gid] = found.stdout?.split(":") ?? [];
  return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
}

function hasName(): boolean {
  try {
    return userInfo().username !== "";
  } catch {
    return false;
  }
}

/**
 * The directory stays Steward's, so that Postgres' account cannot swap what Steward writes there; its group may pass
 * through. Directories above need not be open to it: Postgres is started inside and never names them.
 */
async function letThrough(home: string, identity: Identity): Promise<void> {
  const isOurs = identity.uid === process.getuid?.();
  if (!isOurs) await chown(home, process.getuid?.() ?? 0, identity.gid);
  await chmod(home, isOurs ? 0o700 : 0o710);
}

async function probe(wish: IdentityWish, identity: Identity): Promise<string> {
  const printed = await runProgram(identity, wish.binaries.postgres, { directory: wish.tryIn, args: ["--version"] });
  const version = /(\d+)[.\w]*\s*$/.exec(printed)?.[1];
  if (version === undefined) throw new Error(`unexpected version: ${printed}`);
  return version;
}

async function explain(wish: IdentityWish, failures: readonly string[]): Promise<string> {
  if (await isMusl())
    return `the embedded Postgres needs glibc and this host has musl: use another image, ${otherwise}`;
  const tried = failures.join("; ");
  if (process.getuid?.() !== 0) return `cannot run ${wish.binaries.postgres} (${tried}): repair it, ${otherwise}`;
  return (
    `Postgres does not run as root and ${wish.binaries.postgres} did not run as somebody else (${tried}): ` +
    `name an account that can read and execute it with --database-user, run Steward as an ordinary user, ${otherwise}`
  );
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split("\n", 1)[0] ?? "";
}
