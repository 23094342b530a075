import { createHash } from "node:crypto";
import { type DescMessage, type JsonValue, type MessageShape, toJson } from "@bufbuild/protobuf";

/** SHA-256 (hex) of a method's request; equal messages have equal hashes, whatever the order of their map entries on the wire. */
export function requestHash<D extends DescMessage>(method: string, schema: D, request: MessageShape<D>): string {
  const text = JSON.stringify(sorted(toJson(schema, request)));
  return createHash("sha256").update(method).update("\n").update(text).digest("hex");
}

function sorted(value: JsonValue): JsonValue {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  const entries = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, inner]) => [key, sorted(inner)]));
}
