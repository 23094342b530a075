import { closeSync, openSync, readdirSync, readSync } from "node:fs";
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
 * Everything alive on this machine. A scan costs about 15 ms for 1,000 processes, so callers that ask while one is
 * under way share the next; a scan never holds the event loop longer than a slice. After one that several
 * had asked for it rests for as long as that took: where a thousand services end at about the same time, the more of them share the next.
 */
export class ProcessTable {
  #next: { readonly processes: Promise<Processes>; since: number } | undefined;
  #current: Promise<unknown> = Promise.resolve();
  #restsUntilMs = 0;
  #askers = 0;
  /** Of the last scan: a marker that was seen once stays true, and reading it is half the cost. */
  #marked = new Map<number, TableEntry>();

  /** A scan that begins after the call. Only of those which started at `since` or later, in ticks since boot, it tells the marker. */
  scan(since = 0): Promise<Processes> {
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
    const entries = await readAll(since, this.#marked);
    const endMs = performance.now();
    this.#restsUntilMs = isShared ? endMs + (endMs - startMs) : 0;
    this.#marked = new Map(
      entries.filter(({ instanceId }) => instanceId !== undefined).map((each) => [each.pid, each]),
    );
    return new Processes(entries);
  }
}

const sliceOfPids = 64;
const mostRounds = 8;

/** Looks again for what was forked while it looked: one that forks and ends faster than a look takes would never be seen otherwise. */
async function readAll(since: number, marked: ReadonlyMap<number, TableEntry>): Promise<TableEntry[]> {
  const entries: TableEntry[] = [];
  const seen = new Set<number>();
  for (let round = 0; round < mostRounds; round++) {
    const fresh = pids().filter((pid) => !seen.has(pid));
    if (fresh.length === 0) break;
    for (const [index, pid] of fresh.entries()) {
      if (index % sliceOfPids === sliceOfPids - 1) await setImmediate();
      seen.add(pid);
      const stat = readStat(pid);
      if (stat !== undefined && !isDead(stat)) entries.push({ ...stat, instanceId: markerOf(stat, since, marked) });
    }
  }
  return entries;
}

function pids(): number[] {
  return readdirSync("/proc").map(Number).filter(Number.isInteger);
}

const kernelThreadParent = 2;
const marker = Buffer.from(`${instanceMarker}=`);

function markerOf(stat: ProcessStat, since: number, marked: ReadonlyMap<number, TableEntry>): string | undefined {
  const known = marked.get(stat.pid);
  if (known?.startTime === stat.startTime) return known.instanceId;
  return Number(stat.startTime) < since ? undefined : readMarker(stat);
}

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
