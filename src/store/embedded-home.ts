import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { binariesIn, findBinaries, linkLibraries } from "./embedded-binaries.ts";
import { prepareCluster } from "./embedded-cluster.ts";
import { chooseIdentity, type Identity } from "./embedded-identity.ts";
import { type FileLock, lockFile } from "./embedded-lock.ts";
import { placeSocket, type SocketPlace } from "./embedded-socket.ts";

export interface HomeWish {
  readonly dataDir: string;
  readonly log: (line: string) => void;
  readonly user?: string | undefined;
  readonly nativeDir?: string | undefined;
}

/** A database directory that is complete, ours alone, and ready for a server to start in. */
export interface Home {
  readonly directory: string;
  readonly identity: Identity;
  readonly postgres: string;
  readonly socket: SocketPlace;
  /** Lets another process use it; only once no server runs in it. */
  close(): Promise<void>;
}

/** Locks the home and makes what is missing in it. Throws an Error when another process has it, and leaves it unlocked. */
export async function openHome(wish: HomeWish, signal: AbortSignal): Promise<Home> {
  await mkdir(wish.dataDir, { recursive: true, mode: 0o700 });
  const lock = await lockFile(join(wish.dataDir, "lock"));
  try {
    return await furnish(wish, lock, signal);
  } catch (error) {
    await lock.release();
    throw error;
  }
}

async function furnish(wish: HomeWish, lock: FileLock, signal: AbortSignal): Promise<Home> {
  const { dataDir: home, log } = wish;
  const binaries = wish.nativeDir === undefined ? findBinaries() : binariesIn(wish.nativeDir);
  const libraries = join(home, "lib");
  await linkLibraries(binaries, libraries);
  const proven = await chooseIdentity({ binaries, home, tryIn: libraries, user: wish.user });
  const { identity } = proven;
  const directory = await prepareCluster({ ...proven, binaries, home, log, signal });
  const socket = await placeSocket({ home, directory, identity, log });
  const close = async () => {
    await socket.remove();
    await lock.release();
  };
  return { directory, identity, postgres: binaries.postgres, socket, close };
}
