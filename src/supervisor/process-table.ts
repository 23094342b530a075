import { readdirSync, readFileSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { instanceMarker } from "./environment.ts";
import { isDead, type ProcessStat, readStat } from "./process-identity.ts";

/** A living process, and the instance its environment says it belongs to. */
export interface TableEntry extends ProcessStat {
  /** Undefined also when we may not read its environment. */
  readonly instanceId: string | undefined;
}

/**
 * Everything alive on this machine. A scan costs about 15 ms for 1,000 processes, so callers that ask while one is
 * under way share the next; a scan never holds the event loop longer than a slice.
 */
export class ProcessTable {
  #next: Promise<readonly TableEntry[]> | undefined;
  #current: Promise<unknown> = Promise.resolve();

  /** A scan that begins after the call. */
  scan(): Promise<readonly TableEntry[]> {
    this.#next ??= this.#queue();
    return this.#next;
  }

  async #queue(): Promise<readonly TableEntry[]> {
    await this.#current;
    this.#next = undefined;
    const scan = scanOnce();
    this.#current = scan.catch(() => undefined);
    return scan;
  }
}

const sliceOfPids = 64;

async function scanOnce(): Promise<readonly TableEntry[]> {
  const entries: TableEntry[] = [];
  const pids = readdirSync("/proc").map(Number).filter(Number.isInteger);
  for (const [index, pid] of pids.entries()) {
    if (index % sliceOfPids === sliceOfPids - 1) await setImmediate();
    const stat = readStat(pid);
    if (stat !== undefined && !isDead(stat)) entries.push({ ...stat, instanceId: readMarker(stat) });
  }
  return entries;
}

const kernelThreadParent = 2;
const marker = Buffer.from(`${instanceMarker}=`);

function readMarker(stat: ProcessStat): string | undefined {
  if (stat.parent === kernelThreadParent || stat.pid === kernelThreadParent) return undefined;
  try {
    return findMarker(readFileSync(`/proc/${stat.pid}/environ`));
  } catch {
    return undefined; // it ended, or is another user's and we are not root
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
