import type { JsonValue } from "@bufbuild/protobuf";
import { type Document, isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseDocument } from "yaml";
import { UsageError } from "./failure.ts";

export type Path = readonly (string | number)[];

/** A YAML or JSON text that knows on which line each of its parts stands. */
export class PlacedText {
  readonly source: string;
  readonly root: JsonValue;
  readonly #document: Document.Parsed;
  readonly #lines = new LineCounter();

  /** Throws a UsageError that names the line when the text is neither. */
  constructor(text: string, source: string) {
    this.source = source;
    this.#document = parseDocument(text, { lineCounter: this.#lines, merge: true });
    this.root = this.#read();
  }

  /** `FILE:LINE` of a part, or of the deepest one above it that is written: a flat service has no `spec` and no `managed`. */
  placeOf(path: Path): string {
    let node: unknown = this.#document.contents;
    let offset = this.#document.contents?.range?.[0] ?? 0;
    for (const segment of path) {
      const found = partOf(isAlias(node) ? node.resolve(this.#document) : node, segment);
      if (found === undefined) continue;
      node = found.value;
      offset = found.offset;
    }
    return `${this.source}:${this.#lines.linePos(offset).line}`;
  }

  #read(): JsonValue {
    try {
      const [error] = this.#document.errors;
      if (error !== undefined) throw error;
      return this.#document.toJS() as JsonValue;
    } catch (error) {
      throw new UsageError(`${this.source}: ${error instanceof Error ? error.message.trimEnd() : String(error)}`);
    }
  }
}

/** The part of a list or map under an index or key, and where it begins. */
function partOf(node: unknown, segment: string | number): { value: unknown; offset: number } | undefined {
  if (isSeq<Node>(node) && typeof segment === "number") {
    const value = node.items[segment];
    return value === undefined ? undefined : { value, offset: value.range?.[0] ?? 0 };
  }
  const pair = isMap(node)
    ? node.items.find(({ key }) => isScalar(key) && snakeCase(String(key.value)) === snakeCase(String(segment)))
    : undefined;
  return isScalar(pair?.key) ? { value: pair.value, offset: pair.key.range?.[0] ?? 0 } : undefined;
}

function snakeCase(key: string): string {
  return key.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
