import type { Connection } from "./context.ts";
import { UsageError } from "./failure.ts";
import type { OutputFormat, Screen } from "./print.ts";

/** What a command works with. */
export interface Session extends Connection {
  readonly screen: Screen;
  /** Aborts on Ctrl-C. */
  readonly signal: AbortSignal;
}

/** Reads `-o` of a command that knows these formats. */
export function parseFormat(...known: readonly OutputFormat[]): (text: string) => OutputFormat {
  return (text) => {
    const format = known.find((each) => each === text);
    if (format === undefined) throw new UsageError(`-o is one of ${known.join(", ")}, not ${JSON.stringify(text)}`);
    return format;
  };
}

/** Reads a duration such as `30s`, `5m`, `24h` or `7d`, in milliseconds; a bare number is seconds. */
export function parseDuration(text: string): number {
  const [, amount, unit] = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(text) ?? [];
  if (amount === undefined)
    throw new UsageError(`a duration is a number with ms, s, m, h or d, such as 30s, not ${JSON.stringify(text)}`);
  const factor = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }[unit ?? "s"] ?? 1_000;
  return Number(amount) * factor;
}

/** Reads a time such as `2026-01-31T08:00:00Z`, or how long ago it was: `15m`. */
export function parsePast(text: string, now = new Date()): Date {
  if (/^\d+(?:\.\d+)?[a-z]*$/.test(text)) return new Date(now.getTime() - parseDuration(text));
  const time = new Date(text);
  if (Number.isNaN(time.getTime()))
    throw new UsageError(
      `a time is ISO 8601, such as 2026-01-31T08:00:00Z, or how long ago, such as 15m, not ${JSON.stringify(text)}`,
    );
  return time;
}

/** Reads a whole number of at least 0. */
export function parseCount(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new UsageError(`expected a whole number, not ${JSON.stringify(text)}`);
  return Number(text);
}
