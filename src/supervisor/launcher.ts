import { finished } from "node:stream/promises";
import type { Limits } from "../domain/limits.ts";
import type { Account } from "./account.ts";
import { instanceMarker } from "./environment.ts";
import type { InstanceHandle, InstanceReference } from "./instance-handle.ts";
import type { Leftovers } from "./leftovers.ts";
import { identify } from "./process-identity.ts";
import { createRunDirectory, type ProcessExit } from "./run-directory.ts";
import { gateScript, shimArguments } from "./shim.ts";
import { type Spawned, spawnDetached } from "./spawn.ts";

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
  /** Steward's own working directory. */
  readonly cwd: string;
  /** A POSIX shell: dash, busybox and bash are known to do. */
  readonly shell?: string;
}

/** Starts the commands of services, each under a shim of its own (shim.ts). */
export class Launcher {
  readonly #leftovers: Leftovers;
  readonly #cwd: string;
  readonly #shell: string;

  constructor({ leftovers, cwd, shell = "/bin/sh" }: LauncherOptions) {
    this.#leftovers = leftovers;
    this.#cwd = cwd;
    this.#shell = shell;
  }

  /**
   * Prepares an instance. The caller records its identity durably, then releases it. Throws invalid_argument for a request
   * that no process can be given, and whatever the system says when it refuses a directory or a process.
   */
  async launch(request: LaunchRequest): Promise<Launched> {
    if (request.environment.get(instanceMarker) !== request.instanceId) throw new Error("the marker is not set");
    const script = gateScript({ ...request, fallbackCwd: this.#cwd });
    await createRunDirectory(request.runDir);
    const spawned = spawnDetached(this.#shell, shimArguments(request, this.#shell));
    const identity = identify(spawned.pid);
    if (identity === undefined) throw new Error(`process ${spawned.pid} vanished unreaped`);
    const { instanceId, runDir } = request;
    return this.#atTheGate({ instanceId, runDir, identity }, spawned, script);
  }

  #atTheGate(instance: InstanceReference, spawned: Spawned, script: Buffer): Launched {
    const exited = this.#exitOf(instance, spawned);
    let released = false;
    return {
      ...instance,
      exited,
      async release() {
        released = true;
        spawned.input.end(script);
        await closed(spawned);
      },
      async abandon() {
        if (released) return;
        spawned.input.destroy();
        await exited;
      },
    };
  }

  async #exitOf(instance: InstanceReference, { ended, input }: Spawned): Promise<ProcessExit> {
    await ended;
    input.destroy(); // with its shim killed, the second stage may still stand at the gate
    return this.#leftovers.collectExit(instance);
  }
}

/** Whether the reader took the words or went away without: its exit tells which. */
async function closed({ input, ended }: Spawned): Promise<void> {
  await Promise.race([finished(input).catch(() => undefined), ended]);
}
