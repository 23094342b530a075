import { appendFileSync, mkdtempSync, rmSync, statSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import { OutputTimes, type Sample, samplesAfter, samplesSince, thinned } from "../../src/supervisor/output-times.ts";

let directory: string;
let path: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "steward-times-"));
  path = join(directory, "stdout");
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const growing = fc
  .array(fc.record({ afterMs: fc.nat(2_000), bytes: fc.integer({ min: 1, max: 100 }) }), { maxLength: 60 })
  .map((steps) =>
    steps.reduce<Sample[]>((all, { afterMs, bytes }) => {
      const { time, end } = all.at(-1) ?? { time: 1_000, end: 0n };
      return [...all, { time: time + afterMs, end: end + BigInt(bytes) }];
    }, []),
  );

test("whatever is thinned, times and ends still grow, no time gets earlier and the last sample stays", () => {
  fc.assert(
    fc.property(growing, fc.nat(3_000), (samples, head) => {
      const rest = thinned(samples, BigInt(head));

      const kept = samples.filter(({ end }) => end > BigInt(head));
      expect(isGrowing(rest)).toBe(true);
      expect(rest.at(-1)).toEqual(kept.at(-1));
      expect(rest.length).toBeLessThanOrEqual(Math.max(3, Math.ceil(kept.length * 0.85)));
      for (const { time, end } of kept) expect(timeOf(rest, end - 1n)).toBeGreaterThanOrEqual(time);
    }),
  );
});

test("whatever is noted, every byte has a time at most a quarter of a second after it was seen, or the file's own", async () => {
  await fc.assert(
    fc.asyncProperty(growing, async (samples) => {
      rmSync(`${path}.times`, { force: true });
      const times = new OutputTimes(path);
      for (const sample of samples) await times.note(sample, 0n);

      const { samples: found } = await samplesAfter(path, 0n);

      expect(isGrowing(found)).toBe(true);
      for (const { time, end } of samples.filter(({ end: each }) => each <= (found.at(-1)?.end ?? 0n))) {
        expect(timeOf(found, end - 1n)).toBeGreaterThanOrEqual(time);
        expect(timeOf(found, end - 1n) - time).toBeLessThanOrEqual(250);
      }
    }),
    { numRuns: 50 },
  );
});

test("what is held back is written at the end", async () => {
  const times = new OutputTimes(path);
  await times.note({ time: 1_000, end: 10n }, 0n);
  await times.note({ time: 1_050, end: 20n }, 0n);
  await times.close();

  expect((await samplesAfter(path, 0n)).samples).toEqual([
    { time: 1_000, end: 10n },
    { time: 1_050, end: 20n },
  ]);
});

test("it stays bounded, and the newest times exact", async () => {
  const times = new OutputTimes(path, { mostSamples: 64 });
  for (let each = 1; each <= 1_000; each++) await times.note({ time: each * 1_000, end: BigInt(each) }, 0n);

  const { samples } = await samplesAfter(path, 0n);

  expect(statSync(`${path}.times`).size).toBeLessThanOrEqual(64 * 16);
  expect(isGrowing(samples)).toBe(true);
  expect(samples.slice(-16).map(({ end }) => end)).toEqual(Array.from({ length: 16 }, (_, each) => BigInt(985 + each)));
});

test("another server goes on where the last one ended, over a sample that was cut", async () => {
  await new OutputTimes(path).note({ time: 1_000, end: 10n }, 0n);
  appendFileSync(`${path}.times`, "cut");
  expect((await samplesAfter(path, 0n)).samples).toHaveLength(1);

  const next = new OutputTimes(path);
  await next.note({ time: 500, end: 10n }, 0n);
  await next.note({ time: 500, end: 30n }, 0n);
  await next.close();

  const expected = [
    { time: 1_000, end: 10n },
    { time: 1_000, end: 30n },
  ];
  expect((await samplesAfter(path, 0n)).samples).toEqual(expected);
  truncateSync(`${path}.times`, 31);
  expect((await samplesAfter(path, 10n)).samples).toEqual([]);
});

test("finds what was written since a time, with what came before it", async () => {
  const times = new OutputTimes(path);
  for (let each = 1; each <= 600; each++) await times.note({ time: each * 1_000, end: BigInt(each * 10) }, 0n);

  expect(await samplesSince(path, 0)).toMatchObject({ before: undefined });
  const { before, samples } = await samplesSince(path, 500_500);
  expect(before).toEqual({ time: 500_000, end: 5_000n });
  expect(samples).toHaveLength(100);
  expect((await samplesSince(path, 600_001)).samples).toEqual([]);
});

function isGrowing(samples: readonly Sample[]): boolean {
  return samples.every(({ time, end }, index) => {
    const before = samples[index - 1];
    return before === undefined || (time >= before.time && end > before.end);
  });
}

function timeOf(samples: readonly Sample[], offset: bigint): number {
  return samples.find(({ end }) => end > offset)?.time ?? Infinity;
}
