import { createHash } from "node:crypto";
import { invalid } from "./errors.ts";

/** The offset of each stream that was read; of one that was not, none. */
export interface OutputOffsets {
  readonly stdout?: bigint;
  readonly stderr?: bigint;
}

/** A place in the output of a service, for its readers: opaque, gives no authority and is good only for that service. */
export function encodeOutputCursor(serviceUid: string, { stdout, stderr }: OutputOffsets): string {
  const place = `${stdout ?? ""}.${stderr ?? ""}`;
  return Buffer.from(`${place}.${fingerprint(serviceUid, place)}`).toString("base64url");
}

/** Throws invalid_argument for what was not made for this service. */
export function decodeOutputCursor(serviceUid: string, cursor: string): OutputOffsets {
  const text = Buffer.from(cursor, "base64url").toString("latin1");
  const [, place = "", stdout, stderr, print] = /^((\d{0,19})\.(\d{0,19}))\.([\w-]{16})$/.exec(text) ?? [];
  if (print !== fingerprint(serviceUid, place))
    throw invalid({ field: "cursor", description: "is not the cursor of a response of this service" });
  return { ...(stdout ? { stdout: BigInt(stdout) } : {}), ...(stderr ? { stderr: BigInt(stderr) } : {}) };
}

function fingerprint(serviceUid: string, place: string): string {
  return createHash("sha256").update(`${serviceUid} ${place}`).digest("base64url").slice(0, 16);
}
