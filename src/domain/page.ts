import { createHash } from "node:crypto";
import { type Clock, systemClock } from "./clock.ts";
import { AppError, invalid } from "./errors.ts";

/** Where a list goes on. The token is opaque, gives no authority, and is good for three days and only for the list that it came from. Source: AIP-158. */
export interface PageRequest {
  readonly pageSize: number;
  readonly pageToken: string;
}

const defaultSize = 50;
const largestSize = 1_000;
const goodForMs = 3 * 24 * 3_600_000;

/** 0 is the default, more than 1000 are cut, less than 0 is refused. */
export function pageSizeOf(request: Pick<PageRequest, "pageSize">): number {
  if (request.pageSize < 0) throw invalid({ field: "page_size", description: "must be 0 (the default of 50) to 1000" });
  return Math.min(request.pageSize === 0 ? defaultSize : request.pageSize, largestSize);
}

/** `list` names the method and every argument that the pages must share. */
export function encodePageToken(
  list: readonly string[],
  last: string,
  clock: Pick<Clock, "now"> = systemClock,
): string {
  return Buffer.from(JSON.stringify([fingerprint(list), last, clock.now().getTime()])).toString("base64url");
}

/** The last key of the page before; undefined for the first page. */
export function decodePageToken(
  list: readonly string[],
  token: string,
  clock: Pick<Clock, "now"> = systemClock,
): string | undefined {
  if (token === "") return undefined;
  const [print, last, madeMs] = parse(token);
  if (print !== fingerprint(list) || typeof last !== "string" || typeof madeMs !== "number") throw pageTokenInvalid();
  if (clock.now().getTime() - madeMs > goodForMs)
    throw pageTokenInvalid("is older than three days; begin again with the first page");
  return last;
}

/** The error of a token that is not one of the list's, or is no longer. */
export function pageTokenInvalid(
  description = "is not the next_page_token of this list with the same filter and arguments",
): AppError {
  return new AppError("invalid_argument", "PAGE_TOKEN_INVALID", `page_token: ${description}`, {
    violations: [{ field: "page_token", description }],
  });
}

function parse(token: string): readonly unknown[] {
  try {
    const value: unknown = JSON.parse(Buffer.from(token, "base64url").toString("utf8"));
    return Array.isArray(value) ? value : [];
  } catch {
    return [];
  }
}

function fingerprint(list: readonly string[]): string {
  return createHash("sha256").update(JSON.stringify(list)).digest("base64url").slice(0, 16);
}
