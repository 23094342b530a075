import { appendFileSync, mkdtempSync, rmSync, utimesSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type OutputChunk, type OutputRequest, readOutput } from "../../src/supervisor/output.ts";
import type { OutputStream } from "../../src/supervisor/output-stream.ts";
import { OutputTimes } from "../../src/supervisor/output-times.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "steward-order-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

interface Write {
  readonly stream: OutputStream;
  readonly text: string;
  readonly time: number;
}

const writes = fc
  .array(
    fc.record({
      stream: fc.constantFrom<OutputStream>("stdout", "stderr"),
      text: fc.oneof(fc.stringMatching(/^[a-z]{0,5}\n$/), fc.stringMatching(/^[a-z]{1,3}$/)),
      afterMs: fc.constantFrom(0, 200, 5_000),
    }),
    { maxLength: 40 },
  )
  .map((steps) =>
    steps.reduce<Write[]>(
      (all, { afterMs, ...step }) => [...all, { ...step, time: (all.at(-1)?.time ?? 1_000_000) + afterMs }],
      [],
    ),
  );

test("whatever is written when, it is read whole, in the order of time, standard output first", async () => {
  await fc.assert(
    fc.asyncProperty(writes, async (all) => {
      const place = await written(all);

      const chunks = await collect(place);

      const times = chunks.map(({ time }) => time.getTime());
      expect(times).toEqual(times.toSorted((one, other) => one - other));
      expect(textOf(chunks, "stdout")).toBe(textOfWrites(all, "stdout"));
      expect(textOf(chunks, "stderr")).toBe(textOfWrites(all, "stderr"));
      for (const [index, chunk] of chunks.entries()) {
        const before = chunks[index - 1];
        if (before?.time.getTime() === chunk.time.getTime())
          expect([before.stream, chunk.stream]).not.toEqual(["stderr", "stdout"]);
      }
    }),
    { numRuns: 60 },
  );
});

test("whatever the chunk after which reading is resumed, what follows is the rest, once", async () => {
  await fc.assert(
    fc.asyncProperty(writes, fc.nat(), async (all, at) => {
      const place = await written(all);
      const chunks = await collect(place);
      fc.pre(chunks.length > 0);
      const index = at % chunks.length;

      const rest = await collect(place, { from: chunks[index]?.next });

      expect(rest.map(plain)).toEqual(chunks.slice(index + 1).map(plain));
    }),
    { numRuns: 60 },
  );
});

test("begins with what was written since a time, on both streams", async () => {
  const place = await written([
    { stream: "stdout", text: "early\n", time: 1_000_000 },
    { stream: "stderr", text: "early too\n", time: 1_000_500 },
    { stream: "stderr", text: "late\n", time: 2_000_000 },
    { stream: "stdout", text: "later\n", time: 2_000_500 },
  ]);
  const since = async (time: number) =>
    (await collect(place, { since: new Date(time) })).map(({ data }) => data.toString());

  expect(await since(0)).toEqual(["early\n", "early too\n", "late\n", "later\n"]);
  expect(await since(1_000_001)).toEqual(["early too\n", "late\n", "later\n"]);
  expect(await since(1_500_000)).toEqual(["late\n", "later\n"]);
  expect(await since(2_000_001)).toEqual(["later\n"]);
  expect(await since(3_000_000)).toEqual([]);
});

test("what was written while nobody looked is as old as the file's last change", async () => {
  const place = await written([{ stream: "stdout", text: "seen\n", time: 1_000_000 }]);
  appendFileSync(place.stdoutPath, "unseen\n");
  utimesSync(place.stdoutPath, 5_000, 5_000);

  const chunks = await collect(place);

  expect(chunks.map(({ data, time }) => [data.toString(), time.getTime()])).toEqual([
    ["seen\n", 1_000_000],
    ["unseen\n", 5_000_000],
  ]);
  expect(await collect(place, { since: new Date(4_000_000) })).toMatchObject([{ data: Buffer.from("unseen\n") }]);
  expect(await collect(place, { since: new Date(6_000_000) })).toEqual([]);
});

test("a place beyond the end, of a file that was put back, is the end", async () => {
  const place = await written([{ stream: "stdout", text: "short\n", time: 1_000_000 }]);

  expect(await collect(place, { from: { stdout: 1_000n } })).toEqual([]);
});

test("ten thousand lines at as many times are read in little time", async () => {
  const lines = Array.from({ length: 10_000 }, (_, each) => ({
    stream: each % 2 === 0 ? ("stdout" as const) : ("stderr" as const),
    text: `${each}\n`,
    time: 1_000_000 + each * 1_000,
  }));
  const place = await written(lines);

  const chunks = await collect(place);

  expect(chunks.map(({ data }) => data.toString())).toEqual(lines.map(({ text }) => text));
});

interface Place {
  readonly stdoutPath: string;
  readonly stderrPath: string;
}

let places = 0;

/** Output as it lies there after these writes, each seen at once. */
async function written(all: readonly Write[]): Promise<Place> {
  const place = join(directory, String(places++));
  const paths = { stdoutPath: `${place}.stdout`, stderrPath: `${place}.stderr` };
  for (const stream of ["stdout", "stderr"] as const) {
    const path = paths[`${stream}Path`];
    const times = new OutputTimes(path);
    let end = 0n;
    for (const { text, time } of all.filter((write) => write.stream === stream)) {
      end += BigInt(text.length);
      await times.note({ time, end }, 0n);
    }
    await times.close();
    appendFileSync(path, textOfWrites(all, stream));
    const last = all.findLast((write) => write.stream === stream)?.time ?? 0;
    utimesSync(path, last / 1_000, last / 1_000);
  }
  return paths;
}

function collect(place: Place, more: Partial<OutputRequest> = {}): Promise<OutputChunk[]> {
  const { signal } = new AbortController();
  return Array.fromAsync(readOutput({ ...place, streams: ["stderr", "stdout"], follow: false, signal, ...more }));
}

function plain({ stream, offset, data, time }: OutputChunk): unknown {
  return [stream, offset, data.toString(), time.getTime()];
}

function textOf(chunks: readonly OutputChunk[], stream: OutputStream): string {
  return Buffer.concat(chunks.filter((chunk) => chunk.stream === stream).map(({ data }) => data)).toString();
}

function textOfWrites(all: readonly Write[], stream: OutputStream): string {
  return all
    .filter((write) => write.stream === stream)
    .map(({ text }) => text)
    .join("");
}
