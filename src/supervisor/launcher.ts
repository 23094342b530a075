import { finished } from "node:stream/promises";
import { setTimeout as delay } from "node:timers/promises";
import type { Limits } from "../domain/limits.ts";
import type { Account } from "./account.ts";
import { enterGroup } from "./cgroup.ts";
import type { ControlGroups } from "./control-groups.ts";
import { instanceMarker } from "./environment.ts";
import { type InstanceHandle, type InstanceReference, stagePid } from "./instance-handle.ts";
import type { Leftovers } from "./leftovers.ts";
import { identify, stateOf } from "./process-identity.ts";
import { createRunDirectory, type ProcessExit, recordGroup, spawnFailed } from "./run-directory.ts";
import { gateScript, shimWords } from "./shim.ts";
import type { Shims } from "./shims.ts";
import type { Spawned } from "./spawn.ts";

export interface LaunchRequest {
  readonly instanceId: string;
  /** Made by launch, 0700, on a local disk; one per instance. */
  readonly runDir: string;
  /** Appended to; made when absent, 0600. Their directories exist. */
  readonly stdoutPath: string;
  readonly stderrPath: string;
  readonly argv: readonly string[];
  /** Absolute. Undefined: Steward's own directory where the user may enter it, else /. */
  readonly cwd: string | undefined;
  /** Exactly what the command gets; holds the instance marker. */
  readonly environment: ReadonlyMap<string, string>;
  /** Whom to become; undefined: stay who we are. */
  readonly account: Account | undefined;
  /** Those that can be enforced here. */
  readonly limits: Limits;
  /** Which of the limits have no effect here, for people; empty: none. */
  readonly unenforced: string;
  /** The descriptor on which the command tells that it is ready; undefined: none. */
  readonly notifyFd: number | undefined;
}

/** A process that waits at the gate: nothing of the service has run, and nothing will unless it is released. */
export interface Launched extends InstanceHandle {
  /** Lets the command run. Resolves when the word is with the kernel: from then on the command runs even if we die. */
  release(): Promise<void>;
  /** Gives it up; resolves when nothing is left but its run directory. Without effect after release. */
  abandon(): Promise<void>;
}

export interface LauncherOptions {
  readonly leftovers: Leftovers;
  /** Undefined: instances get no control groups. */
  readonly groups?: ControlGroups | undefined;
  /** Steward's own working directory. */
  readonly cwd: string;
  readonly shims: Shims;
}

/** Starts the commands of services, each under a shim of its own (shim.ts). */
export class Launcher {
  readonly #leftovers: Leftovers;
  readonly #groups: ControlGroups | undefined;
  readonly #cwd: string;
  readonly #shims: Shims;

  constructor({ leftovers, groups, cwd, shims }: LauncherOptions) {
    this.#leftovers = leftovers;
    this.#groups = groups;
    this.#cwd = cwd;
    this.#shims = shims;
  }

  /**
   * Prepares an instance. The caller records who it is, then releases it. Throws invalid_argument for a request
   * that no process can be given, and whatever the system says when it refuses a directory or a process.
   */
  async launch(request: LaunchRequest): Promise<Launched> {
    if (request.environment.get(instanceMarker) !== request.instanceId) throw new Error("the marker is not set");
    const script = gateScript({ ...request, fallbackCwd: this.#cwd });
    createRunDirectory(request.runDir);
    const place = this.#place(request);
    const spawned = this.#shims.take();
    spawned.input.write(shimWords({ ...request, limits: place.limits }, this.#shims.shell));
    const identity = identify(spawned.pid);
    if (identity === undefined) throw new Error(`process ${spawned.pid} vanished unreaped`);
    const { instanceId, runDir } = request;
    const exited = this.#exitOf({ instanceId, runDir, identity }, spawned, request);
    return this.#atTheGate({ instanceId, runDir, identity, exited }, spawned, script, place);
  }

  /** Makes the control group, and leaves to the kernel's limits for processes what the group does not count. */
  #place({ instanceId, runDir, limits }: LaunchRequest): Place {
    if (this.#groups === undefined) return { group: undefined, isLimited: false, limits };
    const group = this.#groups.create(instanceId, limits);
    recordGroup(runDir, group);
    const isLimited = this.#groups.limits(limits);
    return { group, isLimited, limits: this.#groups.has("pids") ? { ...limits, processes: undefined } : limits };
  }

  #atTheGate(instance: InstanceHandle, spawned: Spawned, script: Buffer, place: Place): Launched {
    let refusal: string | undefined;
    const exited = instance.exited.then((exit) => (refusal === undefined ? exit : spawnFailed(refusal, exit.time)));
    // Not kept when it was told: it holds the whole environment.
    let words: Buffer | undefined = script;
    return {
      ...instance,
      exited,
      async release() {
        const told = words;
        words = undefined;
        const entered = enter(instance, place.group).catch((error: unknown) => String(error));
        // What its group limits must not begin outside of it. Otherwise the group only helps to find all that it started, and the start need not wait for it.
        if (place.isLimited) refusal = await entered;
        if (refusal === undefined) spawned.input.end(told);
        else spawned.input.destroy();
        await closed(spawned);
      },
      async abandon() {
        if (words === undefined) return;
        spawned.input.destroy();
        await exited;
      },
    };
  }

  async #exitOf(
    instance: InstanceReference,
    { ended, input }: Spawned,
    { argv, cwd }: LaunchRequest,
  ): Promise<ProcessExit> {
    await ended;
    input.destroy(); // with its shim killed, the second stage may still stand at the gate
    return this.#leftovers.collectExit(instance, { argv, cwd });
  }
}

/** Where an instance goes. */
interface Place {
  readonly group: string | undefined;
  /** Whether the group holds it to something. */
  readonly isLimited: boolean;
  /** What is left for the kernel's limits for processes. */
  readonly limits: Limits;
}

/** Puts the second stage into its control group, and with it all that comes of it. The shim stays out: it must outlive a kill of the whole group. */
async function enter(instance: InstanceReference, group: string | undefined): Promise<undefined> {
  while (group !== undefined && stateOf(instance.identity) === "alive") {
    const pid = stagePid(instance);
    if (pid !== undefined && (await enterGroup(group, pid))) break;
    await delay(1);
  }
  return undefined;
}

/** Whether the reader took the words or went away without: its exit tells which. */
async function closed({ input, ended }: Spawned): Promise<void> {
  await Promise.race([finished(input).catch(() => undefined), ended]);
}
