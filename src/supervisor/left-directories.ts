import { constants } from "node:fs";
import { open, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { removeRunDirectory, runFiles } from "./run-directory.ts";

const isOldMs = { runDirectory: 60_000, output: 7 * 24 * 3_600_000 };

/** Removes the run directories of instances whose end is recorded, or whose intent never was. Those of living shims stay, whoever knows them. */
export async function removeEndedRunDirectories(root: string, live: ReadonlySet<string>): Promise<void> {
  for (const instanceId of await namesIn(root)) {
    const directory = join(root, instanceId);
    if (live.has(instanceId) || (await isHeld(join(directory, runFiles.alive)))) continue;
    if (await isOlder(directory, isOldMs.runDirectory)) await removeRunDirectory(directory);
  }
}

/** Removes the output of services that were deleted while no server looked; after a week, so that a mistaken database costs no log. */
export async function removeOldOutput(root: string, known: ReadonlySet<string>): Promise<void> {
  for (const serviceUid of await namesIn(root)) {
    const directory = join(root, serviceUid);
    if (known.has(serviceUid) || !(await isOlder(directory, isOldMs.output))) continue;
    const files = await namesIn(directory);
    const old = await Promise.all(files.map((file) => isOlder(join(directory, file), isOldMs.output)));
    if (old.every(Boolean)) await rm(directory, { recursive: true, force: true });
  }
}

async function namesIn(directory: string): Promise<string[]> {
  return readdir(directory).catch(() => []);
}

/** Whether a shim holds its FIFO: nobody can write to one that nobody holds. */
async function isHeld(fifo: string): Promise<boolean> {
  try {
    const file = await open(fifo, constants.O_WRONLY | constants.O_NONBLOCK);
    await file.close();
    return true;
  } catch {
    return false;
  }
}

async function isOlder(path: string, ms: number): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found !== undefined && Date.now() - found.mtimeMs > ms;
}
