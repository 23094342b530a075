import { closeSync, openSync, readdirSync, readSync, statSync } from "node:fs";
import { setTimeout as delay, setImmediate } from "node:timers/promises";
import { instanceMarker, ownersOf } from "./environment.ts";
import { isDead, type ProcessStat, readStat } from "./process-identity.ts";

/** A living process, and the instance its environment says it belongs to. */
export interface TableEntry extends ProcessStat {
  /** Undefined also when we may not read its environment. */
  readonly instanceId: string | undefined;
}

/** What a scan found. Hundreds ask one scan, each for its own few. */
export class Processes {
  readonly #byPid: ReadonlyMap<number, TableEntry>;
  readonly #bySession: ReadonlyMap<number, TableEntry[]>;
  readonly #byGroup: ReadonlyMap<number, TableEntry[]>;
  readonly #byMarker: ReadonlyMap<string, TableEntry[]>;

  constructor(entries: readonly TableEntry[]) {
    this.#byPid = new Map(entries.map((entry) => [entry.pid, entry]));
    this.#bySession = Map.groupBy(entries, ({ session }) => session);
    this.#byGroup = Map.groupBy(entries, ({ group }) => group);
    this.#byMarker = byMarker(entries);
  }

  byPid(pid: number): TableEntry | undefined {
    return this.#byPid.get(pid);
  }

  /** Those in the session or the process group of this number. */
  inSession(leader: number): readonly TableEntry[] {
    return [...new Set([...(this.#bySession.get(leader) ?? []), ...(this.#byGroup.get(leader) ?? [])])];
  }

  /** Those which bear this marker, or that of a part of it. */
  marked(instanceId: string): readonly TableEntry[] {
    return this.#byMarker.get(instanceId) ?? [];
  }
}

function byMarker(entries: readonly TableEntry[]): Map<string, TableEntry[]> {
  const found = new Map<string, TableEntry[]>();
  for (const entry of entries) {
    for (const owner of entry.instanceId === undefined ? [] : ownersOf(entry.instanceId)) {
      const known = found.get(owner);
      if (known === undefined) found.set(owner, [entry]);
      else known.push(entry);
    }
  }
  return found;
}

/**
 * Everything alive on this machine that is not older than asked. A scan costs about 15 ms for 1,000 processes, a third of that for those which are older
 * and were seen before, so callers that ask while one is under way share the next; a scan never holds the event loop longer than a slice. After one that several
 * had asked for it rests for as long as that took: where a thousand services end at about the same time, the more of them share the next.
 */
export class ProcessTable {
  #next: { readonly processes: Promise<Processes>; since: number } | undefined;
  #current: Promise<unknown> = Promise.resolve();
  #restsUntilMs = 0;
  #askers = 0;
  /** Those of the last scan by pid. */
  #known: ReadonlyMap<number, Known> = new Map();

  /** A scan that begins after the call, of what started at `since` or later, in ticks since boot. */
  scan(since: number): Promise<Processes> {
    this.#askers++;
    this.#next ??= { processes: this.#queue(), since };
    this.#next.since = Math.min(this.#next.since, since);
    return this.#next.processes;
  }

  async #queue(): Promise<Processes> {
    await this.#current;
    const restMs = this.#restsUntilMs - performance.now();
    if (restMs >= 1) await delay(restMs);
    const since = this.#next?.since ?? 0;
    this.#next = undefined;
    const scan = this.#scan(since);
    this.#current = scan.catch(() => undefined);
    return scan;
  }

  async #scan(since: number): Promise<Processes> {
    const startMs = performance.now();
    const isShared = this.#askers > 1;
    this.#askers = 0;
    const looks = await lookAtAll(since, this.#known);
    const endMs = performance.now();
    this.#restsUntilMs = isShared ? endMs + (endMs - startMs) : 0;
    this.#known = new Map(looks.map(({ pid, known }) => [pid, known]));
    return new Processes(looks.flatMap(({ entry }) => entry ?? []));
  }
}

/** What stays true of a process for as long as it lives, and how it is known again without a look into it. */
interface Known {
  /** Those of its directory, which another process would not have. */
  readonly inode: number;
  readonly madeMs: number;
  readonly startTime: number;
  /** A marker that was seen once stays true. */
  readonly instanceId: string | undefined;
}

interface Look {
  readonly pid: number;
  readonly known: Known;
  /** Undefined: it is older than asked, or dead. */
  readonly entry?: TableEntry;
}

const sliceMs = 3;
const mostRounds = 8;

/** Looks again for what was forked while it looked: one that forks and ends faster than a look takes would never be seen otherwise. */
async function lookAtAll(since: number, known: ReadonlyMap<number, Known>): Promise<Look[]> {
  const looks: Look[] = [];
  const seen = new Set<number>();
  let sliceStartMs = performance.now();
  for (let round = 0; round < mostRounds; round++) {
    const fresh = pids().filter((pid) => !seen.has(pid));
    if (fresh.length === 0) break;
    for (const pid of fresh) {
      if (performance.now() - sliceStartMs > sliceMs) {
        await setImmediate();
        sliceStartMs = performance.now();
      }
      seen.add(pid);
      const look = lookAt(pid, since, known.get(pid));
      if (look !== undefined) looks.push(look);
    }
  }
  return looks;
}

function pids(): number[] {
  return readdirSync("/proc").map(Number).filter(Number.isInteger);
}

/** Most of a machine is older than what is looked for, and need not be read again to know that. */
function lookAt(pid: number, since: number, before: Known | undefined): Look | undefined {
  const directory = statSync(`/proc/${pid}`, { throwIfNoEntry: false });
  if (directory === undefined) return undefined;
  const { ino: inode, ctimeMs: madeMs } = directory;
  const again = before?.inode === inode && before.madeMs === madeMs ? before : undefined;
  if (again !== undefined && again.startTime < since) return { pid, known: again };
  const stat = readStat(pid);
  if (stat === undefined) return undefined;
  const startTime = Number(stat.startTime);
  const isAsked = startTime >= since;
  const instanceId = again?.instanceId ?? (isAsked ? readMarker(stat) : undefined);
  const known = { inode, madeMs, startTime, instanceId };
  return isAsked && !isDead(stat) ? { pid, known, entry: { ...stat, instanceId } } : { pid, known };
}

const kernelThreadParent = 2;
const marker = Buffer.from(`${instanceMarker}=`);

function readMarker(stat: ProcessStat): string | undefined {
  if (stat.parent === kernelThreadParent || stat.pid === kernelThreadParent) return undefined;
  try {
    return findMarker(readEnvironment(stat.pid));
  } catch {
    return undefined; // it ended, or is another user's and we are not root
  }
}

/** One for all: a buffer for each process would leave a hundred megabytes of garbage where a thousand services start. */
let scratch = Buffer.alloc(64 * 1024);

function readEnvironment(pid: number): Buffer {
  const file = openSync(`/proc/${pid}/environ`, "r");
  try {
    let length = 0;
    for (let bytes = -1; bytes !== 0; length += bytes) {
      if (length === scratch.length) scratch = Buffer.concat([scratch], scratch.length * 2);
      bytes = readSync(file, scratch, length, scratch.length - length, null);
    }
    return scratch.subarray(0, length);
  } finally {
    closeSync(file);
  }
}

function findMarker(environ: Buffer): string | undefined {
  for (let at = environ.indexOf(marker); at >= 0; at = environ.indexOf(marker, at + 1)) {
    if (at !== 0 && environ[at - 1] !== 0) continue; // part of another variable
    const end = environ.indexOf(0, at);
    return environ.toString("utf8", at + marker.length, end < 0 ? environ.length : end);
  }
  return undefined;
}
