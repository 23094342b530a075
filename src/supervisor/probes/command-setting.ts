import { readFile } from "node:fs/promises";
import type { Account } from "../account.ts";
import { instanceMarker } from "../environment.ts";
import { commandPid, type InstanceReference } from "../instance-handle.ts";

/** How a service's own commands run. */
export interface CommandSetting {
  /** Exactly what they get. */
  readonly environment: ReadonlyMap<string, string>;
  /** Absolute. Undefined: Steward's own directory where the user may enter it, else /. */
  readonly cwd: string | undefined;
  /** Whom to become; undefined: stay who we are. */
  readonly account: Account | undefined;
}

/**
 * The setting of an instance that another server started: its environment is nowhere but with its command. A process may write over its own, so one that
 * is not the account's, or does not bear the instance's marker, is not believed. Throws when it cannot be told.
 */
export async function settingOfAdopted(
  instance: InstanceReference,
  { account, cwd, ownUid }: { account: Account | undefined; cwd: string | undefined; ownUid: number },
): Promise<CommandSetting> {
  const pid = commandPid(instance);
  if (pid === undefined) throw new Error("its process is gone");
  const uids = /^Uid:\s+(.*)$/m.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1]?.split(/\s+/) ?? [];
  const uid = String(account?.uid ?? ownUid);
  if (uids.length === 0 || uids.some((each) => each !== uid)) throw new Error("its process became another user");
  const environment = parseEnvironment(await readFile(`/proc/${pid}/environ`, "utf8"));
  if (environment.get(instanceMarker) !== instance.instanceId)
    throw new Error("its process has written over its environment");
  return { environment, cwd, account };
}

function parseEnvironment(text: string): Map<string, string> {
  return new Map(
    text.split("\0").flatMap((entry): [string, string][] => {
      const at = entry.indexOf("=");
      return at > 0 ? [[entry.slice(0, at), entry.slice(at + 1)]] : [];
    }),
  );
}
