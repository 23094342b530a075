import { readdir, readFile, stat } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";

/** One turn of ending processes: what to send (nothing: only wait) and how long to wait for them to be gone. */
export interface EndingTurn {
  readonly signal?: NodeJS.Signals;
  readonly waitMs: number;
}

/** For a Postgres whose parent has died: it is usually leaving already, and loses nothing by any of these. */
export const askFirst: readonly EndingTurn[] = [
  { waitMs: 2_000 },
  { signal: "SIGINT", waitMs: 10_000 },
  { signal: "SIGQUIT", waitMs: 5_000 },
  { signal: "SIGKILL", waitMs: 5_000 },
];

/** For an unfinished initdb: what it made is thrown away. */
export const atOnce: readonly EndingTurn[] = [{ signal: "SIGKILL", waitMs: 5_000 }];

/**
 * Ends every Postgres process that works in `directory`; resolves when none is left, throws when one survives.
 * They are known by their working directory and not by a recorded pid: a pid may meanwhile be a stranger's, or a
 * zombie's (which has no working directory), and a killed postmaster leaves backends that are in no file.
 */
export async function endPostgresIn(
  directory: string,
  turns: readonly EndingTurn[],
  log: (line: string) => void,
): Promise<void> {
  for (const turn of turns) {
    const pids = await postgresIn(directory);
    if (pids.length > 0 && turn.signal !== undefined) {
      log(`sending ${turn.signal} to a Postgres left in ${directory} (pid ${pids.join(", ")})`);
      for (const pid of pids) signal(pid, turn.signal);
    }
    if (await isEmpty(directory, turn.waitMs)) return;
  }
  throw new Error(`a Postgres in ${directory} cannot be ended (pid ${(await postgresIn(directory)).join(", ")})`);
}

async function isEmpty(directory: string, waitMs: number): Promise<boolean> {
  const deadline = performance.now() + waitMs;
  while ((await postgresIn(directory)).length > 0) {
    if (performance.now() > deadline) return false;
    await delay(10);
  }
  return true;
}

async function postgresIn(directory: string): Promise<readonly number[]> {
  const wanted = await identityOf(directory);
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(pids.map((pid) => isPostgresIn(pid, wanted)));
  return pids.filter((_, index) => found[index]).map(Number);
}

async function isPostgresIn(pid: string, wanted: string | undefined): Promise<boolean> {
  if (wanted === undefined) return false;
  const name = await readFile(`/proc/${pid}/comm`, "utf8").catch(() => "");
  // Somebody's shell may well stand in the directory.
  if (!["postgres", "initdb"].includes(name.trim())) return false;
  return (await identityOf(`/proc/${pid}/cwd`)) === wanted;
}

/** A directory's name for the kernel: the same under every path and mount that leads to it. */
async function identityOf(path: string): Promise<string | undefined> {
  const found = await stat(path).catch(() => undefined);
  return found && `${found.dev}:${found.ino}`;
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
