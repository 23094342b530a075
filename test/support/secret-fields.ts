import type { DescField, DescMessage, MessageShape } from "@bufbuild/protobuf";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";

/** The way from a message down to a field that is marked as a secret. */
export type SecretPath = readonly DescField[];

/** Every marked field of a message and of what it holds, at any depth; a message that holds itself is gone into once. */
export function secretPaths(schema: DescMessage, above: readonly DescMessage[] = []): SecretPath[] {
  if (above.includes(schema)) return [];
  return schema.fields.flatMap((field) => {
    if (field.proto.options?.debugRedact === true) return [[field]];
    return messageIn(field) === undefined
      ? []
      : secretPaths(messageIn(field) as DescMessage, [...above, schema]).map((path) => [field, ...path]);
  });
}

export function nameOf(schema: DescMessage, path: SecretPath): string {
  return [schema.typeName, ...path.map(({ name }) => name)].join(".");
}

/** Puts a secret where the path leads, into what the message already has on the way. */
export function plant<D extends DescMessage>(
  schema: D,
  message: MessageShape<D>,
  path: SecretPath,
  secret: string,
): MessageShape<D> {
  plantIn(reflect(schema, message), path, secret);
  return message;
}

function plantIn(message: ReflectMessage, [field, ...below]: SecretPath, secret: string): void {
  if (field === undefined) throw new Error("the path leads nowhere");
  if (below.length === 0) return setSecret(message, field, secret);
  const schema = messageIn(field);
  if (schema === undefined) throw new Error(`${field.name} holds no message`);
  switch (field.fieldKind) {
    case "message": {
      const inner = message.isSet(field) ? message.get(field) : reflect(schema);
      plantIn(inner, below, secret);
      return message.set(field, inner);
    }
    case "list": {
      const list = message.get(field);
      if (list.size === 0) list.add(reflect(schema));
      for (const item of list) plantIn(item as ReflectMessage, below, secret);
      return;
    }
    case "map": {
      const map = message.get(field);
      const inner = (map.get("key") as ReflectMessage | undefined) ?? reflect(schema);
      plantIn(inner, below, secret);
      map.set("key", inner);
      return;
    }
    default:
      throw new Error(`${field.name} holds no message`);
  }
}

function setSecret(message: ReflectMessage, field: DescField, secret: string): void {
  const bytes = new TextEncoder().encode(secret);
  if (field.fieldKind === "map") message.get(field).set("SECRET", secret);
  else if (field.fieldKind === "list") message.get(field).add(secret);
  else if (field.fieldKind === "scalar") message.set(field, field.scalar === 12 ? bytes : secret);
  else throw new Error(`${field.name} is marked, and nobody says how to fill a ${field.fieldKind}`);
}

function messageIn(field: DescField): DescMessage | undefined {
  return "message" in field ? field.message : undefined;
}
