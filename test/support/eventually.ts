import { setTimeout as delay } from "node:timers/promises";

/**
 * Calls `look` until it returns something other than undefined or false, or stops throwing; rejects with the last failure after `timeoutMs`
 * (default 15 s). For facts of the operating system that send no event: a process gone, a port open.
 */
export async function eventually<T>(
  look: () => T | Promise<T>,
  { timeoutMs = 15_000, everyMs = 20 }: { timeoutMs?: number; everyMs?: number } = {},
): Promise<Exclude<T, undefined | false>> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const outcome = await attempt(look);
    if (outcome.ok) return outcome.value;
    if (performance.now() > deadline) throw new Error(`not so after ${timeoutMs} ms`, { cause: outcome.failure });
    await delay(everyMs);
  }
}

type Outcome<T> = { ok: true; value: Exclude<T, undefined | false> } | { ok: false; failure: unknown };

async function attempt<T>(look: () => T | Promise<T>): Promise<Outcome<T>> {
  try {
    const value = await look();
    if (value === undefined || value === false) return { ok: false, failure: value };
    return { ok: true, value: value as Exclude<T, undefined | false> };
  } catch (failure) {
    return { ok: false, failure };
  }
}
