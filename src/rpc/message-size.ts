import { byRevision, type Cursor } from "../domain/event.ts";
import type { Service } from "../domain/service.ts";

/** What one message of a stream holds at most, unless one thing alone is larger: clients take 4 MiB and need some of it for the frame. */
const largestBytes = 1024 * 1024;

/** Cuts a list into parts that each fit into one message, in order. */
export function* messageParts<T>(things: readonly T[], sizeOf: (thing: T) => number): Generator<readonly T[], void> {
  let start = 0;
  let size = 0;
  for (const [index, thing] of things.entries()) {
    const added = sizeOf(thing);
    if (size + added > largestBytes && index > start) {
      yield things.slice(start, index);
      start = index;
      size = 0;
    }
    size += added;
  }
  if (start < things.length) yield things.slice(start);
}

/**
 * Whole revisions, cut into parts that each fit into one message. Only a revision that alone is too large is cut; the cursor of each part is
 * the last revision that was sent whole with it, so that a watch which is resumed after it misses nothing.
 */
export function batchParts<T extends { readonly revision: bigint }>(
  things: readonly T[],
  { storeUid, revision }: Cursor,
  sizeOf: (thing: T) => number,
): readonly { readonly things: readonly T[]; readonly cursor: Cursor }[] {
  const sizeOfAll = (whole: readonly T[]) => whole.reduce((sum, thing) => sum + sizeOf(thing), 0);
  const parts = [...messageParts([...byRevision(things)], sizeOfAll)].flatMap((revisions) =>
    revisions.length === 1 ? [...messageParts(revisions.flat(), sizeOf)] : [revisions.flat()],
  );
  return parts.map((part, index) => {
    const next = parts[index + 1]?.[0];
    return { things: part, cursor: { storeUid, revision: next === undefined ? revision : next.revision - 1n } };
  });
}

const sizes = new WeakMap<Service, number>();

/** About how many bytes a service has as a message; rather more than less. */
export function sizeOfService(service: Service): number {
  const known = sizes.get(service);
  if (known !== undefined) return known;
  const size = 1024 + Buffer.byteLength(JSON.stringify(service.spec));
  sizes.set(service, size);
  return size;
}
