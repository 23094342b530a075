import { setTimeout as delay } from "node:timers/promises";
import type { InstanceHandle } from "./instance-handle.ts";
import { identityOf, type Leftovers, type Members } from "./leftovers.ts";
import { aborted } from "./pause.ts";
import { hasBegun, type ProcessExit } from "./run-directory.ts";
import { signalGroup, signalProcess } from "./spawn.ts";

export interface StopOptions {
  /** Default SIGTERM. */
  readonly signal?: NodeJS.Signals;
  /** From the signal to SIGKILL. Aborting `hurry` ends it early. */
  readonly graceMs: number;
  readonly hurry?: AbortSignal;
  /** From SIGKILL to giving up on what cannot be killed. Default 5 s. */
  readonly killWaitMs?: number;
  /** Called once the signal was sent. */
  readonly onSignalled?: () => void;
}

export type StopResult =
  | { readonly stopped: true; readonly exit: ProcessExit }
  | { readonly stopped: false; readonly survivors: readonly number[] };

/**
 * Ends an instance with everything it started: the signal to its group, time to leave, SIGKILL to what is still there in
 * its session or bears its marker, then a look that nothing is left. Only processes proven to be its own are signalled.
 */
export async function stopInstance(
  instance: InstanceHandle,
  leftovers: Leftovers,
  { signal = "SIGTERM", graceMs, hurry, killWaitMs = 5_000, onSignalled }: StopOptions,
): Promise<StopResult> {
  const grace = endOfGrace(graceMs, hurry);
  const isAsked = await ask(instance, leftovers, signal, grace);
  onSignalled?.();
  const seen = isAsked ? await allGone(instance, leftovers, grace) : undefined;
  return clearInstance(instance, leftovers, killWaitMs, seen);
}

/** Ends whatever is left of an instance, without asking: of one that ended by itself what it had started. `seen`: what was found just now. */
export async function clearInstance(
  instance: InstanceHandle,
  leftovers: Leftovers,
  killWaitMs = 5_000,
  seen?: Members,
): Promise<StopResult> {
  const survivors = await leftovers.kill(instance, killWaitMs, seen);
  if (survivors.length > 0) return { stopped: false, survivors };
  return { stopped: true, exit: await lastWord(instance) };
}

/**
 * Sends the signal until it has met the command itself: before its turn the shells on the way may let it pass unheard.
 * A process that is stopped hears nothing until it continues. False: there was nobody to ask.
 */
async function ask(
  instance: InstanceHandle,
  leftovers: Leftovers,
  signal: NodeJS.Signals,
  grace: AbortSignal,
): Promise<boolean> {
  let begun = hasBegun(instance.runDir);
  if (!signalGroup(instance.identity, signal)) return askMembers(instance, leftovers, signal);
  while (!begun && !grace.aborted) {
    await delay(5);
    begun = hasBegun(instance.runDir);
    if (!signalGroup(instance.identity, signal)) return true;
  }
  signalGroup(instance.identity, "SIGCONT");
  return true;
}

async function askMembers(instance: InstanceHandle, leftovers: Leftovers, signal: NodeJS.Signals): Promise<boolean> {
  const { own } = await leftovers.find(instance);
  for (const entry of own) {
    signalProcess(identityOf(entry), signal);
    signalProcess(identityOf(entry), "SIGCONT");
  }
  return own.length > 0;
}

/** Resolves when the command and all it started are gone, with the look that found so, or with the end of the grace. */
async function allGone(
  instance: InstanceHandle,
  leftovers: Leftovers,
  grace: AbortSignal,
): Promise<Members | undefined> {
  await Promise.race([instance.exited, aborted(grace)]);
  for (let pauseMs = 10; !grace.aborted; pauseMs = Math.min(pauseMs * 2, 500)) {
    const found = await leftovers.find(instance);
    if (found.own.length === 0) return found;
    await Promise.race([delay(pauseMs), aborted(grace)]);
  }
  return undefined;
}

/** Even on a starved machine the shim ends soon after its command. One that does not is stuck, and takes the exit with it. */
const shimPatienceMs = 30_000;

async function lastWord(instance: InstanceHandle): Promise<ProcessExit> {
  const patience = setTimeout(() => signalProcess(instance.identity, "SIGKILL"), shimPatienceMs);
  try {
    return await instance.exited;
  } finally {
    clearTimeout(patience);
  }
}

function endOfGrace(graceMs: number, hurry: AbortSignal | undefined): AbortSignal {
  const timeout = AbortSignal.timeout(graceMs);
  return hurry === undefined ? timeout : AbortSignal.any([timeout, hurry]);
}
