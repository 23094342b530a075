import { mkdirSync, statSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
// Not by name: a Node that is too old has none of these, and shall come as far as to say that it is too old.
import module from "node:module";
import { basename, dirname, join } from "node:path";

/** From now on modules are compiled once for all starts: what comes of it is kept in the state directory, and is a third of the time of a start. */
export function useCompiledCode(stateDir: string): void {
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  // Whoever can write there could make us run anything.
  if (!isOurs(stateDir)) return;
  const directory = join(stateDir, "compiled");
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  if (isOurs(directory)) module.enableCompileCache(directory);
}

/** Writes down what was compiled until now, because a crash would not; and forgets what other versions of Node had left. */
export async function keepCompiledCode(): Promise<void> {
  const current = module.getCompileCacheDir();
  if (current === undefined) return;
  module.flushCompileCache();
  const all = dirname(current);
  for (const name of await readdir(all))
    if (name !== basename(current)) await rm(join(all, name), { recursive: true, force: true });
}

function isOurs(directory: string): boolean {
  const { uid, mode } = statSync(directory);
  return uid === process.getuid?.() && (mode & 0o022) === 0;
}
