import type { InstanceReference } from "./instance-handle.ts";
import { identityOf, type Leftovers } from "./leftovers.ts";
import { signalGroup, signalProcess } from "./spawn.ts";

/** Signals that no process can catch: the shim would not survive them to record the end, so they go to everybody else. */
const uncatchable: ReadonlySet<NodeJS.Signals> = new Set(["SIGKILL", "SIGSTOP"]);

/** Sends a signal to the process group of an instance. False: nobody of it was there any more. */
export async function signalInstance(
  instance: InstanceReference,
  leftovers: Leftovers,
  signal: NodeJS.Signals,
): Promise<boolean> {
  if (!uncatchable.has(signal)) return signalGroup(instance.identity, signal);
  const { own } = await leftovers.find(instance);
  const inGroup = own.filter(({ group }) => group === instance.identity.pid);
  return inGroup.map((entry) => signalProcess(identityOf(entry), signal)).some(Boolean);
}
