import { setTimeout as delay } from "node:timers/promises";
import { isPopulated, killGroup, membersOfGroup, ranOutOfMemory, removeGroup } from "./cgroup.ts";
import type { InstanceReference } from "./instance-handle.ts";
import { currentBootId, isDead, readStat } from "./process-identity.ts";
import type { Processes, ProcessTable, TableEntry } from "./process-table.ts";
import {
  type Attempt,
  groupOf,
  hasExitRecord,
  type ProcessExit,
  readExit,
  removeRunDirectory,
} from "./run-directory.ts";
import { signalGroup, signalProcess } from "./spawn.ts";

/** Everything of an instance but its shim. */
export interface Members {
  /** Proven to be its own. */
  readonly own: readonly TableEntry[];
  /** In a session with its number that nothing proves to be its session: never signalled. */
  readonly doubtful: readonly TableEntry[];
}

/** Finds and ends what an instance started: its control group, its session, its group, and those which left both but carry its marker. */
export class Leftovers {
  readonly #table: Pick<ProcessTable, "scan">;

  constructor(table: Pick<ProcessTable, "scan">) {
    this.#table = table;
  }

  async find(instance: InstanceReference): Promise<Members> {
    if (instance.identity.bootId !== currentBootId()) return { own: [], doubtful: [] };
    // What it started is not older than its shim.
    const processes = await this.#table.scan(Number(instance.identity.startTime));
    return withGroup(membersOf(instance, processes), processes, groupOf(instance.runDir));
  }

  /**
   * SIGKILL to all of them, again until none is left or `withinMs` is over. The shim is spared, so that it records the
   * exit; without a control group it goes too when they multiply faster than they die. Resolves with the pids that remain; 0 is one that cannot be seen.
   * `seen`: what was found just now.
   */
  async kill(instance: InstanceReference, withinMs = 5_000, seen?: Members): Promise<number[]> {
    const start = performance.now();
    const group = groupOf(instance.runDir);
    for (let [round, pauseMs] = [1, 2]; ; round++, pauseMs = Math.min(pauseMs * 2, 100)) {
      const { own, doubtful } = round === 1 && seen !== undefined ? seen : await this.find(instance);
      const unseen = group !== undefined && own.length === 0 && isPopulated(group) ? [0] : [];
      const elapsedMs = performance.now() - start;
      const left = [...[...own, ...doubtful].map(({ pid }) => pid), ...unseen];
      // One that is dying has lost its marker a moment before it is gone: a doubt is waited for too.
      if (left.length === 0 || elapsedMs > withinMs) return left;
      if (group !== undefined) killGroup(group);
      else if (round > mostRoundsWithShim && elapsedMs > withinMs / 2) signalGroup(instance.identity, "SIGKILL");
      for (const entry of own) signalProcess(identityOf(entry), "SIGKILL");
      await delay(pauseMs);
    }
  }

  /**
   * How an instance ended whose shim is gone. Without a record the shim itself was killed: what it held is killed too, and
   * the exit is `lost` unless nothing of the service had begun. Never rejects.
   */
  async collectExit(instance: InstanceReference, attempt?: Attempt): Promise<ProcessExit> {
    try {
      if (!hasExitRecord(instance.runDir)) await this.kill(instance);
      const exit = readExit(instance.runDir, attempt);
      return exit === undefined
        ? lost("its shim was killed, so nobody knows how the command ended")
        : withReason(exit, groupOf(instance.runDir));
    } catch (error) {
      return lost(`how it ended cannot be read: ${String(error)}`);
    }
  }

  /** Removes what an ended instance has of the kernel and the file system. Its end is durable by now. */
  async forget(runDir: string): Promise<void> {
    const group = groupOf(runDir);
    if (group !== undefined) removeGroup(group);
    await removeRunDirectory(runDir);
  }
}

/** The kernel kills with SIGKILL as others do; its group tells the difference. */
function withReason(exit: ProcessExit, group: string | undefined): ProcessExit {
  const isOutOfMemory = exit.signal === "SIGKILL" && group !== undefined && ranOutOfMemory(group);
  return isOutOfMemory ? { ...exit, reason: "oom_killed" } : exit;
}

/**
 * Members of its control group are its own, whatever they did to session and environment. The group is read after the table, so that a pid in both belonged to
 * the process in the table or to one that its start time tells apart when it comes to a signal.
 */
function withGroup(members: Members, processes: Processes, group: string | undefined): Members {
  const pids = new Set(group === undefined ? [] : membersOfGroup(group));
  if (group === undefined || pids.size === 0) return members;
  const known = new Set(members.own.map(({ pid }) => pid));
  const others = [...pids].filter((pid) => !known.has(pid));
  const listed = others.flatMap((pid) => processes.byPid(pid) ?? []);
  const forked = newcomers(
    others.filter((pid) => processes.byPid(pid) === undefined),
    group,
  );
  return {
    own: [...members.own, ...listed, ...forked],
    doubtful: members.doubtful.filter(({ pid }) => !pids.has(pid)),
  };
}

/** Forked since the scan. They count if the group has them before and after their start time was read. */
function newcomers(pids: readonly number[], group: string): TableEntry[] {
  const found = pids.flatMap((pid) => readStat(pid) ?? []).filter((stat) => !isDead(stat));
  const still = new Set(found.length === 0 ? [] : membersOfGroup(group));
  return found.filter(({ pid }) => still.has(pid)).map((stat) => ({ ...stat, instanceId: undefined }));
}

/** On a busy machine time alone says nothing of how often it was tried. */
const mostRoundsWithShim = 10;

export function identityOf({ pid, startTime }: TableEntry): InstanceReference["identity"] {
  return { bootId: currentBootId(), pid, startTime };
}

/**
 * A session number outlives its leader for as long as it has members, then it may be given to somebody else. So it proves
 * membership while the leader is the one we know; and without a leader, when a member bears the marker.
 */
export function membersOf({ instanceId, identity }: InstanceReference, processes: Processes): Members {
  const leader = processes.byPid(identity.pid);
  const marked = processes.marked(instanceId).filter(({ pid }) => pid !== identity.pid);
  if (leader !== undefined && leader.startTime !== identity.startTime) return { own: marked, doubtful: [] };

  const session = processes.inSession(identity.pid).filter(({ pid }) => pid !== identity.pid);
  const isMarked = new Set(marked);
  const unmarked = session.filter((entry) => !isMarked.has(entry));
  const isProven = leader !== undefined || unmarked.length < session.length;
  return isProven ? { own: [...marked, ...unmarked], doubtful: [] } : { own: marked, doubtful: unmarked };
}

export function lost(message: string): ProcessExit {
  return { reason: "lost", code: undefined, signal: undefined, message, time: new Date() };
}
