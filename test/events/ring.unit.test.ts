import fc from "fast-check";
import { expect, test } from "vitest";
import type { Event } from "../../src/domain/event.ts";
import { Ring } from "../../src/events/ring.ts";
import { anEvent, aService } from "../rpc/arbitrary.ts";

test("whatever is pushed, the newest revisions are there: whole, in order, from the start on", () => {
  const limits = fc.record({ events: fc.integer({ min: 1, max: 20 }), bytes: fc.integer({ min: 1, max: 20_000 }) });
  const revisions = fc.array(fc.record({ events: fc.integer({ min: 1, max: 5 }), bytes: fc.nat({ max: 10_000 }) }));
  fc.assert(
    fc.property(limits, revisions, fc.integer({ min: 1, max: 10 }), (most, pushed, limit) => {
      const ring = new Ring(7n, most);
      const all: Event[] = [];

      for (const [index, { events, bytes }] of pushed.entries()) {
        const revision = aRevision(8n + BigInt(index), events, bytes);
        all.push(...revision);
        ring.push(revision);

        expect(readAll(ring, limit)).toEqual(all.filter((event) => event.revision > ring.start));
        expect(readAll(ring, limit).at(-1)).toBe(all.at(-1));
      }
    }),
  );
});

test("a ring of small events is bounded by their number", () => {
  const ring = new Ring(0n, { events: 100, bytes: 1_000_000 });

  for (let revision = 1n; revision <= 1_000n; revision++) ring.push(aRevision(revision, 1, 0));

  const kept = 1_000n - ring.start;
  expect(kept >= 100n && kept <= 125n).toBe(true);
});

test("a ring of large events is bounded by their size, wherever it is in them", () => {
  const large = "x".repeat(100_000);
  const withMessage = (revision: bigint) => ({ ...anEvent(revision, undefined, { type: "proxy_up" }), message: large });
  const withService = (revision: bigint) => {
    const service = aService({ name: "web" });
    const labels = { large };
    return anEvent(revision, { ...service, spec: { ...service.spec, labels } }, { type: "service_created" });
  };

  for (const make of [withMessage, withService]) {
    const ring = new Ring(0n, { events: 10_000, bytes: 1_000_000 });
    for (let revision = 1n; revision <= 100n; revision++) ring.push([make(revision)]);

    const kept = 100n - ring.start;
    expect(kept >= 9n && kept <= 12n).toBe(true);
  }
});

test("a last revision that is larger than the ring stays until the next one", () => {
  const ring = new Ring(0n, { events: 100, bytes: 1_000 });
  ring.push(aRevision(1n, 1, 0));

  ring.push(aRevision(2n, 5, 10_000));
  const [start, kept] = [ring.start, ring.readAfter(1n, 10)];
  ring.push(aRevision(3n, 1, 0));

  expect([start, kept.length]).toEqual([1n, 5]);
  expect(ring.start).toBe(2n);
});

function aRevision(revision: bigint, events: number, bytes: number): Event[] {
  return Array.from({ length: events }, (_, index) => ({
    ...anEvent(revision, undefined, { type: "proxy_up" }, index),
    message: "x".repeat(bytes),
  }));
}

/** What a reader gets that goes on from the last revision of each read. */
function readAll(ring: Ring, limit: number): Event[] {
  const read: Event[] = [];
  for (let next = ring.readAfter(ring.start, limit); next.length > 0; ) {
    read.push(...next);
    next = ring.readAfter(next.at(-1)?.revision ?? 0n, limit);
  }
  return read;
}
