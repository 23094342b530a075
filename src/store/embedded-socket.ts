import { chown, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Identity } from "./embedded-identity.ts";

/** The number in the socket's name; nothing listens on a TCP port. */
export const socketPort = 5432;

export interface SocketPlace {
  /** The directory that a client names as its host. */
  readonly host: string;
  /** The same directory as Postgres is told it. */
  readonly serverPath: string;
  remove(): Promise<void>;
}

export interface SocketWish {
  readonly home: string;
  readonly directory: string;
  readonly identity: Identity;
  readonly log: (line: string) => void;
}

/**
 * Chooses where the socket is: in the database directory, which is 0700 already. A client's path to a socket has at most
 * 107 bytes (sockaddr_un), so for a longer one it is in a private directory below the system's temporary one instead.
 */
export async function placeSocket(wish: SocketWish): Promise<SocketPlace> {
  if (fits(wish.directory)) {
    return { host: wish.directory, serverPath: "/proc/self/cwd", remove: () => Promise.resolve() };
  }
  const note = join(wish.home, "socket-directory");
  await forget(note);
  const host = await mkdtemp(join(tmpdir(), "steward-pg-"));
  await writeFile(note, host, { mode: 0o600 });
  if (!fits(host)) {
    await forget(note);
    throw new Error(`the path ${wish.home} is too long for a socket, and so is ${host}: use a shorter --state-dir`);
  }
  await chown(host, wish.identity.uid, wish.identity.gid);
  wish.log(`the path ${wish.directory} is too long for a socket: it is in ${host} instead`);
  return { host, serverPath: host, remove: () => forget(note) };
}

function fits(directory: string): boolean {
  return Buffer.byteLength(join(directory, `.s.PGSQL.${socketPort}`)) <= 107;
}

/** Removes the directory that the note names, also one which a killed Steward left, and the note. */
async function forget(note: string): Promise<void> {
  const directory = await readFile(note, "utf8").catch(() => "");
  if (directory !== "") await rm(directory, { recursive: true, force: true });
  await rm(note, { force: true });
}
