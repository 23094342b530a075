import { stat } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import type { Instance } from "../domain/status.ts";
import { adopt } from "./adoption.ts";
import type { InstanceHandle } from "./instance-handle.ts";
import { type Leftovers, lost } from "./leftovers.ts";
import { currentBootId } from "./process-identity.ts";
import { hasBegun, type ProcessExit, spawnFailed } from "./run-directory.ts";

/** What became of an instance that another server started. */
export type Inheritance =
  | { readonly kind: "alive"; readonly handle: InstanceHandle }
  /** It ended while nobody watched. What it left behind is still to be cleared. */
  | { readonly kind: "gone"; readonly handle: InstanceHandle }
  /** The server ended before it let the command run, so nothing of the service did. */
  | { readonly kind: "never_ran"; readonly exit: ProcessExit };

export interface InheritanceTools {
  readonly leftovers: Leftovers;
  readonly now: () => Date;
}

/** Finds out what became of an instance that the last server recorded and did not see end. Signals nothing that is alive. */
export async function inherit(
  live: Instance,
  runDir: string,
  { leftovers, now }: InheritanceTools,
): Promise<Inheritance> {
  // Without a recorded identity the gate was never opened.
  if (live.process === undefined) return { kind: "never_ran", exit: neverLetGo(now()) };
  const reference = { instanceId: live.id, runDir, identity: live.process };
  const adoption = await adopt(reference, leftovers);
  if (adoption.alive) {
    const { handle } = adoption;
    if (live.state !== "created" || (await passesTheGate(handle))) return { kind: "alive", handle };
  }
  const exit = adoption.alive ? await adoption.handle.exited : adoption.exit;
  if (live.state === "created" && exit.reason === "spawn_failed" && !hasBegun(runDir)) {
    return { kind: "never_ran", exit: neverLetGo(exit.time) };
  }
  const known = await asFarAsKnown(live, runDir, exit);
  return { kind: "gone", handle: { ...reference, exited: Promise.resolve(known) } };
}

const gateWaitMs = 2_000;

/** Whether an instance that was alive at its gate was let go: the gate of a server that ended closes at once. */
async function passesTheGate(handle: InstanceHandle): Promise<boolean> {
  let ended = false;
  void handle.exited.then(() => {
    ended = true;
  });
  for (const deadline = performance.now() + gateWaitMs; performance.now() < deadline; await delay(5)) {
    if (ended) return false;
    if (hasBegun(handle.runDir)) return true;
  }
  return true;
}

/** No code is invented: where nothing was recorded, why not is all there is to say. */
async function asFarAsKnown(live: Instance, runDir: string, exit: ProcessExit): Promise<ProcessExit> {
  if (exit.reason === "lost" && live.process?.bootId !== currentBootId()) {
    return lost("the machine was started anew, and it had not ended before");
  }
  // Without its directory it looks as if it had never begun.
  if (exit.reason === "spawn_failed" && live.state !== "created" && !(await isThere(runDir))) {
    return lost("its run directory is gone, so nobody knows how it ended");
  }
  return exit;
}

function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

function neverLetGo(time: Date): ProcessExit {
  return spawnFailed("the server that was to start it ended before", time);
}
