import type { DescService } from "@bufbuild/protobuf";
import { type Client, createClient, makeAnyClient, type Transport } from "@connectrpc/connect";
import { stewardErrorOf } from "./errors.ts";

/** The generated client of a service, whose calls fail with StewardErrors. */
export function clientOf<S extends DescService>(service: S, transport: Transport): Client<S> {
  const plain = createClient(service, transport) as Readonly<Record<string, (...call: unknown[]) => unknown>>;
  // Which form a method has, its kind says; the types stay those of the generated client.
  return makeAnyClient(service, ({ localName, methodKind }) => {
    const make = plain[localName];
    if (make === undefined) return null;
    if (methodKind === "unary") return (...call: unknown[]) => answer(make(...call) as Promise<unknown>);
    return (...call: unknown[]) => messages(make(...call) as AsyncIterable<unknown>);
  }) as Client<S>;
}

async function answer(call: Promise<unknown>): Promise<unknown> {
  try {
    return await call;
  } catch (error) {
    throw stewardErrorOf(error);
  }
}

async function* messages(call: AsyncIterable<unknown>): AsyncGenerator<unknown, void> {
  try {
    yield* call;
  } catch (error) {
    throw stewardErrorOf(error);
  }
}
