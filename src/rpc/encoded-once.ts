import { type DescMessage, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { CursorSchema } from "../../gen/steward/v1/event_pb.ts";
import type { Cursor } from "../domain/event.ts";
import { cursorToProto } from "./convert-event.ts";

/**
 * What watchers are told of things that do not change, encoded once for all of them, in whatever batches it comes to each. It is forgotten with
 * the thing.
 */
export class EncodedOnce<T extends object, E extends DescMessage> {
  readonly #schema: E;
  readonly #encoded = new WeakMap<T, Map<string, Uint8Array>>();

  constructor(schema: E) {
    this.#schema = schema;
  }

  /** `view` tells apart who sees what of the thing. */
  of(thing: T, view: string, make: () => MessageShape<E>): Uint8Array {
    const byView = this.#encoded.get(thing) ?? new Map<string, Uint8Array>();
    this.#encoded.set(thing, byView);
    const known = byView.get(view);
    if (known !== undefined) return known;
    const bytes = toBinary(this.#schema, make());
    // Few views are those of many watchers: what is kept stays small.
    if (byView.size < mostViews) byView.set(view, bytes);
    return bytes;
  }
}

const mostViews = 16;

/** The numbers of the fields of a response with a cursor and a batch, and of the batch's field that repeats. */
export interface BatchFields {
  readonly cursor: number;
  readonly batch: number;
  readonly element: number;
}

/** A response with a batch, put together of elements that are encoded already: a field that repeats is one of them after the other. */
export function encodedBatch(
  fields: BatchFields,
  cursor: Cursor | undefined,
  elements: readonly Uint8Array[],
): Uint8Array {
  const writer = new BinaryWriter();
  if (cursor !== undefined)
    writer.tag(fields.cursor, WireType.LengthDelimited).bytes(toBinary(CursorSchema, cursorToProto(cursor)));
  writer.tag(fields.batch, WireType.LengthDelimited).fork();
  for (const element of elements) writer.tag(fields.element, WireType.LengthDelimited).bytes(element);
  return writer.join().finish();
}
