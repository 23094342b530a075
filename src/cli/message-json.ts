import { type DescField, type DescMessage, fromJson, type JsonObject, type JsonValue } from "@bufbuild/protobuf";
import { parseDuration } from "./command.ts";
import type { Path } from "./manifest-text.ts";
import { enumPrefix } from "./words.ts";

/** One field is not as its message wants it. */
export class FieldError extends Error {
  override readonly name = "FieldError";
  readonly path: Path;

  constructor(path: Path, message: string) {
    super(message);
    this.path = path;
  }
}

/**
 * The JSON form of a message, of what a person writes: fields as in the proto or in camel case, the words of an enum without their prefix and
 * in any case, durations such as `5m`. Throws a FieldError with the place of the first field that is wrong.
 */
export function toMessageJson(desc: DescMessage, json: JsonObject, path: Path = []): JsonObject {
  return Object.fromEntries(
    Object.entries(json).map(([key, value]) => {
      const at = [...path, key];
      const field = desc.fields.find(({ name, jsonName }) => name === key || jsonName === key);
      if (field === undefined) throw new FieldError(at, "there is no such field");
      return [key, toFieldJson(desc, field, value, at)];
    }),
  );
}

export function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function toFieldJson(desc: DescMessage, field: DescField, value: JsonValue, at: Path): JsonValue {
  if (value === null) return value;
  const given = spelled(field, value, at);
  try {
    fromJson(desc, { [field.jsonName]: given });
  } catch (error) {
    throw new FieldError(at, reasonOf(error));
  }
  return given;
}

function spelled(field: DescField, value: JsonValue, at: Path): JsonValue {
  switch (field.fieldKind) {
    case "message":
      if (field.message.typeName === "google.protobuf.Duration") return toSeconds(value, at);
      if (field.message.typeName.startsWith("google.protobuf.")) return value;
      if (!isObject(value))
        throw new FieldError(at, `expected the fields of ${field.name}, not ${JSON.stringify(value)}`);
      return toMessageJson(field.message, value, at);
    case "enum": {
      const prefix = enumPrefix(field.enum);
      const word = wordOf(value).toUpperCase().replace(prefix, "");
      const words = field.enum.values.filter(({ number }) => number !== 0).map(({ name }) => name.replace(prefix, ""));
      if (!words.includes(word))
        throw new FieldError(at, `expected one of ${words.join(", ")}, not ${JSON.stringify(value)}`);
      return prefix + word;
    }
    case "list":
    case "map":
      for (const [key, each] of Object.entries(typeof value === "object" ? (value ?? {}) : {}))
        if (field.scalar !== undefined && typeof each !== "string")
          throw new FieldError(
            [...at, field.fieldKind === "list" ? Number(key) : key],
            `expected text, not ${JSON.stringify(each)}; put it in quotes`,
          );
      return value;
    case "scalar":
      return value;
  }
}

function toSeconds(value: JsonValue, at: Path): string {
  try {
    return `${parseDuration(wordOf(value)) / 1_000}s`;
  } catch (error) {
    throw new FieldError(at, reasonOf(error));
  }
}

function wordOf(value: JsonValue): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Without the name of the field: its place says it. */
function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.replace(/^cannot decode (?:field|message) \S+ from JSON: /, "");
}
