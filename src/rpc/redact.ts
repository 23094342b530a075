import type { DescField, DescMessage, JsonValue, MessageShape } from "@bufbuild/protobuf";
import { toJson } from "@bufbuild/protobuf";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";

/** What stands in the place of a secret. */
export const redacted = "[redacted]";

/** A message as JSON for the log: every field marked `debug_redact`, at any depth, is replaced. */
export function redact<D extends DescMessage>(schema: D, message: MessageShape<D>): JsonValue {
  return redactMessage(reflect(schema, message));
}

function redactMessage(message: ReflectMessage): JsonValue {
  // Well-known types have a JSON form of their own (a timestamp is a string) and hold no secret.
  if (message.desc.file.proto.package === "google.protobuf") return toJson(message.desc, message.message);
  const fields = message.fields.filter((field) => message.isSet(field));
  return Object.fromEntries(fields.map((field) => [field.name, redactField(message, field)]));
}

function redactField(message: ReflectMessage, field: DescField): JsonValue {
  if (field.proto.options?.debugRedact === true) return redacted;
  switch (field.fieldKind) {
    case "message":
      return redactMessage(message.get(field));
    case "list":
      return [...message.get(field)].map((item) => redactValue(item));
    case "map":
      return Object.fromEntries([...message.get(field)].map(([key, item]) => [String(key), redactValue(item)]));
    case "enum":
    case "scalar":
      return redactValue(message.get(field));
  }
}

function redactValue(value: unknown): JsonValue {
  if (typeof value === "string" || typeof value === "number" || typeof value === "boolean") return value;
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Uint8Array) return `${value.byteLength} bytes`;
  return isReflected(value) ? redactMessage(value) : redacted;
}

function isReflected(value: unknown): value is ReflectMessage {
  return typeof value === "object" && value !== null && "desc" in value && "fields" in value;
}
