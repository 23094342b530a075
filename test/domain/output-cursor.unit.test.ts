import fc from "fast-check";
import { expect, test } from "vitest";
import { decodeOutputCursor, encodeOutputCursor, type OutputOffsets } from "../../src/domain/output-cursor.ts";

const offset = fc.bigInt(0n, 2n ** 62n);
const offsets = fc.record({ stdout: offset, stderr: offset }, { requiredKeys: [] });
const uid = fc.uuid();

test("whatever the place, its cursor leads back to it and fits the request", () => {
  fc.assert(
    fc.property(uid, offsets, (service, place) => {
      const cursor = encodeOutputCursor(service, place);

      expect(cursor.length).toBeLessThanOrEqual(256);
      expect(decodeOutputCursor(service, cursor)).toEqual(place);
    }),
  );
});

test("the cursor of another service is refused, and the field is named", () => {
  fc.assert(
    fc.property(uid, uid, offsets, (service, other, place) => {
      fc.pre(service !== other);

      expect(refusal(other, encodeOutputCursor(service, place))).toMatchObject({
        code: "invalid_argument",
        violations: [{ field: "cursor" }],
      });
    }),
  );
});

test("whatever is no cursor is refused", () => {
  fc.assert(
    fc.property(
      uid,
      offsets,
      fc.nat(),
      fc.constantFrom("A", "z", "0", "=", " ", "é", ""),
      (service, place, at, other) => {
        const cursor = encodeOutputCursor(service, place);
        const changed = cursor.slice(0, at % cursor.length) + other + cursor.slice((at % cursor.length) + 1);

        const outcome = decodedOr(service, changed);

        expect(outcome === undefined || same(outcome, place)).toBe(true);
      },
    ),
  );
  expect(refusal("a", "nonsense")).toBeDefined();
});

function decodedOr(service: string, cursor: string): OutputOffsets | undefined {
  try {
    return decodeOutputCursor(service, cursor);
  } catch {
    return undefined;
  }
}

function refusal(service: string, cursor: string): unknown {
  try {
    decodeOutputCursor(service, cursor);
    return undefined;
  } catch (error) {
    return error;
  }
}

function same(one: OutputOffsets, other: OutputOffsets): boolean {
  return one.stdout === other.stdout && one.stderr === other.stderr;
}
