import { readlinkSync } from "node:fs";
import type { ProcessIdentity } from "../domain/status.ts";
import { childrenOf } from "./process-identity.ts";
import { hasBegun, type ProcessExit, runFiles } from "./run-directory.ts";

/** Where to find an instance: all of it is known before its command runs. */
export interface InstanceReference {
  readonly instanceId: string;
  readonly runDir: string;
  /** The shim, which leads the instance's session and process group. */
  readonly identity: ProcessIdentity;
}

/** A process of ours, started or adopted. */
export interface InstanceHandle extends InstanceReference {
  /** Resolves once, within milliseconds of the end; never rejects for how it ended. */
  readonly exited: Promise<ProcessExit>;
}

/** The pid of the second stage, which turns into the command; undefined before and after. The shim opens the stage's record once its own helpers are gone. */
export function stagePid({ identity }: InstanceReference): number | undefined {
  return opensStage(identity.pid) ? childrenOf(identity)[0] : undefined;
}

/** The pid of an instance's command; undefined before it was let go and after its end. */
export function commandPid({ runDir, identity }: InstanceReference): number | undefined {
  return hasBegun(runDir) ? childrenOf(identity)[0] : undefined;
}

function opensStage(shim: number): boolean {
  try {
    return readlinkSync(`/proc/${shim}/fd/6`).endsWith(`/${runFiles.stage}`);
  } catch {
    return false; // not yet, or it has ended
  }
}
