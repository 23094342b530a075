import { setTimeout as delay } from "node:timers/promises";
import type { InstanceReference } from "./instance-handle.ts";
import { currentBootId } from "./process-identity.ts";
import type { ProcessTable, TableEntry } from "./process-table.ts";
import { hasExitRecord, type ProcessExit, readExit } from "./run-directory.ts";
import { signalGroup, signalProcess } from "./spawn.ts";

/** Everything of an instance but its shim. */
export interface Members {
  /** Proven to be its own. */
  readonly own: readonly TableEntry[];
  /** In a session with its number that nothing proves to be its session: never signalled. */
  readonly doubtful: readonly TableEntry[];
}

/** Finds and ends what an instance started: its session, its group, and those which left both but carry its marker. */
export class Leftovers {
  readonly #table: ProcessTable;

  constructor(table: ProcessTable) {
    this.#table = table;
  }

  async find(instance: InstanceReference): Promise<Members> {
    if (instance.identity.bootId !== currentBootId()) return { own: [], doubtful: [] };
    return membersOf(instance, await this.#table.scan());
  }

  /**
   * SIGKILL to all of them, again until none is left or `withinMs` is over. The shim is spared, so that it records the
   * exit; it goes too when they multiply faster than they die. Resolves with the pids that remain.
   */
  async kill(instance: InstanceReference, withinMs = 5_000): Promise<number[]> {
    const start = performance.now();
    for (let pauseMs = 2; ; pauseMs = Math.min(pauseMs * 2, 100)) {
      const { own, doubtful } = await this.find(instance);
      const elapsedMs = performance.now() - start;
      const left = [...own, ...doubtful];
      // One that is dying has lost its marker a moment before it is gone: a doubt is waited for too.
      if (left.length === 0 || elapsedMs > withinMs) return left.map(({ pid }) => pid);
      if (elapsedMs > withinMs / 2) signalGroup(instance.identity, "SIGKILL");
      for (const entry of own) signalProcess(identityOf(entry), "SIGKILL");
      await delay(pauseMs);
    }
  }

  /**
   * How an instance ended whose shim is gone. Without a record the shim itself was killed: what it held is killed too, and
   * the exit is `lost` unless nothing of the service had begun. Never rejects.
   */
  async collectExit(instance: InstanceReference): Promise<ProcessExit> {
    try {
      if (!(await hasExitRecord(instance.runDir))) await this.kill(instance);
      return (await readExit(instance.runDir)) ?? lost("its shim was killed, so nobody knows how the command ended");
    } catch (error) {
      return lost(`how it ended cannot be read: ${String(error)}`);
    }
  }
}

export function identityOf({ pid, startTime }: TableEntry): InstanceReference["identity"] {
  return { bootId: currentBootId(), pid, startTime };
}

/**
 * A session number outlives its leader for as long as it has members, then it may be given to somebody else. So it proves
 * membership while the leader is the one we know; and without a leader, when a member bears the marker.
 */
export function membersOf({ instanceId, identity }: InstanceReference, table: readonly TableEntry[]): Members {
  const leader = table.find(({ pid }) => pid === identity.pid);
  const marked = table.filter((entry) => isMarked(entry, instanceId) && entry.pid !== identity.pid);
  if (leader !== undefined && leader.startTime !== identity.startTime) return { own: marked, doubtful: [] };

  const inSession = table.filter((entry) => belongs(entry, identity.pid) && !isMarked(entry, instanceId));
  const proven = leader !== undefined || marked.some((entry) => belongs(entry, identity.pid));
  return proven ? { own: [...marked, ...inSession], doubtful: [] } : { own: marked, doubtful: inSession };
}

/** The marker of what belongs to an instance and must be told apart from the rest of it. */
export function markerOfPart(instanceId: string, part: string): string {
  return `${instanceId}/${part}`;
}

function isMarked({ instanceId: marker }: TableEntry, instanceId: string): boolean {
  return marker === instanceId || marker?.startsWith(markerOfPart(instanceId, "")) === true;
}

function belongs(entry: TableEntry, leader: number): boolean {
  return entry.pid !== leader && (entry.session === leader || entry.group === leader);
}

export function lost(message: string): ProcessExit {
  return { reason: "lost", code: undefined, signal: undefined, message, time: new Date() };
}
