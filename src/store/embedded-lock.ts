import { spawn } from "node:child_process";
import { once } from "node:events";
import { type FileHandle, open, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { programEnvironment } from "./embedded-command.ts";

/** A lock that ends with this process, however it ends. */
export interface FileLock {
  release(): Promise<void>;
}

/**
 * Takes the lock of `path` (made when it is missing) or throws an Error that names its holder.
 * flock(1) locks the open file it is handed, and that stays open here: the kernel lets go when this process dies,
 * so a lock is never stale and nobody has to guess from a pid whether its writer still lives.
 */
export async function lockFile(path: string): Promise<FileLock> {
  const file = await open(path, "a+", 0o600);
  try {
    if (!(await flock(file)))
      throw new Error(`${dirname(path)} is in use by another process (pid ${await holderOf(path)})`);
    await file.truncate();
    await file.write(`${process.pid}\n`);
  } catch (error) {
    await file.close();
    throw error;
  }
  return { release: () => file.close() };
}

async function flock(file: FileHandle): Promise<boolean> {
  const child = spawn("flock", ["--nonblock", "--exclusive", "0"], {
    stdio: [file.fd, "ignore", "ignore"],
    env: programEnvironment,
  });
  const [code] = (await once(child, "exit")) as [number | null];
  if (code === 0 || code === 1) return code === 0;
  throw new Error(`flock ended with ${code}: the directory must be on a local disk`);
}

async function holderOf(path: string): Promise<string> {
  return (await readFile(path, "utf8")).trim() || "unknown";
}
