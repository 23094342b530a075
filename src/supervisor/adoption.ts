import { closeSync, constants, openSync, readSync } from "node:fs";
import { Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { InstanceHandle, InstanceReference } from "./instance-handle.ts";
import type { Leftovers } from "./leftovers.ts";
import { stateOf } from "./process-identity.ts";
import { hasExitRecord, type ProcessExit, runFiles } from "./run-directory.ts";

export type Adoption =
  | { readonly alive: true; readonly handle: InstanceHandle }
  | { readonly alive: false; readonly exit: ProcessExit };

/**
 * Takes over an instance that another Steward process started. Alive: its end will be known as soon as if we had started
 * it. Dead: how it ended, from its record; what it left behind is for stopInstance to clear.
 */
export async function adopt(instance: InstanceReference, leftovers: Leftovers): Promise<Adoption> {
  if (stateOf(instance.identity) !== "alive") {
    return { alive: false, exit: await leftovers.collectExit(instance) };
  }
  const exited = endOf(instance).then(() => leftovers.collectExit(instance));
  return { alive: true, handle: { ...instance, exited } };
}

/** Resolves when the shim is gone, or is going and has nothing more to write. Its FIFO says so at once; while there is none, we look. */
async function endOf(instance: InstanceReference): Promise<void> {
  // A dying process closes its files a moment before it counts as dead, hence the short first pauses.
  for (let pauseMs = 1; stateOf(instance.identity) === "alive"; pauseMs = Math.min(pauseMs * 2, mostPauseMs)) {
    const fifo = openFifo(join(instance.runDir, runFiles.alive));
    if (fifo !== undefined) {
      await endOfFifo(fifo);
      if (hasExitRecord(instance.runDir)) return;
    }
    await delay(pauseMs, undefined, { ref: false });
  }
}

/** For a FIFO that was not made yet, or that somebody removed. */
const mostPauseMs = 100;

function openFifo(path: string): number | undefined {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return undefined;
  }
}

/** A FIFO whose last writer has left before it was opened never reports an event, so the first look is a read. */
async function endOfFifo(descriptor: number): Promise<void> {
  if (!hasWriter(descriptor)) {
    closeSync(descriptor);
    return;
  }
  const socket = new Socket({ fd: descriptor, readable: true, writable: false });
  socket.unref();
  await new Promise<void>((resolve) => {
    socket.once("close", () => resolve());
    socket.once("error", () => undefined);
    socket.resume();
  });
}

function hasWriter(descriptor: number): boolean {
  try {
    return readSync(descriptor, Buffer.alloc(1)) > 0;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EAGAIN") return true;
    throw error;
  }
}
