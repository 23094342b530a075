import { access, chown, lchown, mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type { Binaries } from "./embedded-binaries.ts";
import { runProgram } from "./embedded-command.ts";
import type { Identity, ProvenIdentity } from "./embedded-identity.ts";
import { askFirst, atOnce, endPostgresIn } from "./embedded-processes.ts";
import { socketPort } from "./embedded-socket.ts";

/** The name of the only role and of the only database that Steward uses. */
export const databaseName = "steward";

export interface ClusterWish extends ProvenIdentity {
  readonly binaries: Binaries;
  /** Steward's directory around the database; its lock is held. */
  readonly home: string;
  readonly log: (line: string) => void;
  readonly signal: AbortSignal;
}

/**
 * Makes the database directory when there is none, sees that it belongs to the identity, and returns its path.
 * It appears under its name only when it is complete: a start that dies half-way is simply made again.
 */
export async function prepareCluster(wish: ClusterWish): Promise<string> {
  const directory = join(wish.home, "data");
  const version = await versionOf(directory);
  if (version === undefined) await create(wish, directory);
  else if (version !== wish.majorVersion) {
    throw new Error(
      `${directory} was made by Postgres ${version} and this Steward brings Postgres ${wish.majorVersion}: ` +
        `dump it with the old one and load it into the new one`,
    );
  }
  await giveTo(directory, wish.identity, wish.log);
  return directory;
}

/**
 * Clears what a Postgres that died left behind, so that the next can start. Its lock files are removed only once no
 * process of it is left: Postgres itself reads them to notice backends that outlived their postmaster. It would also
 * take a zombie for a living owner, and some hosts keep zombies for long.
 */
export async function clearRemains(directory: string, log: (line: string) => void): Promise<void> {
  const lockFiles = ["postmaster.pid", `.s.PGSQL.${socketPort}.lock`].map((name) => join(directory, name));
  const found = await Promise.all(lockFiles.map(exists));
  if (!found.includes(true)) return;
  await endPostgresIn(directory, askFirst, log);
  for (const path of lockFiles) await rm(path, { force: true });
}

async function create(wish: ClusterWish, directory: string): Promise<void> {
  const unfinished = `${directory}.init`;
  await discard(unfinished, wish.log);
  await mkdir(unfinished, { mode: 0o700 });
  await chown(unfinished, wish.identity.uid, wish.identity.gid);
  await initialize(wish, unfinished);
  await rename(unfinished, directory);
  await syncDirectory(wish.home);
}

async function initialize(wish: ClusterWish, directory: string): Promise<void> {
  const { binaries, identity, signal } = wish;
  // Trust, because reaching the socket takes what reading the files takes: its directory is 0700 and nothing listens on
  // TCP. A password would lie next to the socket, and peer cannot work: in a user namespace everybody is nobody.
  // The C locale sorts the same under every later version of Postgres and of its libraries.
  const access = ["--username", databaseName, "--auth=trust", "--encoding=UTF8", "--locale=C"];
  await runProgram(identity, binaries.initdb, {
    directory,
    args: ["--pgdata=/proc/self/cwd", ...access, "--no-instructions"],
    signal,
  });
  await runProgram(identity, binaries.postgres, {
    directory,
    args: ["--single", "-D", "/proc/self/cwd", "template1"],
    input: `ALTER DATABASE postgres RENAME TO ${databaseName}\n`,
    signal,
  });
}

async function discard(directory: string, log: (line: string) => void): Promise<void> {
  if (!(await exists(directory))) return;
  log(`removing ${directory}, which an earlier start left unfinished`);
  await endPostgresIn(directory, atOnce, log);
  await rm(directory, { recursive: true, force: true });
}

async function versionOf(directory: string): Promise<string | undefined> {
  try {
    return (await readFile(join(directory, "PG_VERSION"), "utf8")).trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Root may have run Postgres as another account before; the directory itself changes last and so marks the whole. */
async function giveTo(directory: string, identity: Identity, log: (line: string) => void): Promise<void> {
  const owner = await stat(directory);
  if (owner.uid === identity.uid) return;
  if (process.getuid?.() !== 0) {
    throw new Error(`${directory} belongs to uid ${owner.uid} and Steward runs as uid ${process.getuid?.()}`);
  }
  log(`handing ${directory} from uid ${owner.uid} to ${identity.uid} (${identity.name})`);
  await clearRemains(directory, log);
  for (const name of await readdir(directory, { recursive: true })) {
    await lchown(join(directory, name), identity.uid, identity.gid);
  }
  await chown(directory, identity.uid, identity.gid);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
