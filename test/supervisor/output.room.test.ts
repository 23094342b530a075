import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { appendFileSync, closeSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type OutputChunk, type OutputRequest, readOutput } from "../../src/supervisor/output.ts";
import { OutputKeeper } from "../../src/supervisor/output-keeper.ts";
import { readKept } from "../../src/supervisor/output-kept.ts";
import { eventually } from "../support/eventually.ts";
import { Workbench } from "./workbench.ts";

const mebibyte = 1024 * 1024;
let directory: string;
let out: string;
let err: string;
let over: AbortController;
let closed: AbortController;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "steward-output-"));
  out = join(directory, "stdout");
  err = join(directory, "stderr");
  over = new AbortController();
  closed = new AbortController();
});
afterEach(() => {
  over.abort();
  rmSync(directory, { recursive: true, force: true });
});

const read = (more: Partial<OutputRequest> = {}) =>
  readOutput({
    stdoutPath: out,
    stderrPath: err,
    streams: ["stdout"],
    follow: false,
    signal: over.signal,
    closed: closed.signal,
    ...more,
  });

const keeper = (keepBytes: number) =>
  new OutputKeeper({
    keepBytes,
    onBeginAnew: (_, reason) => {
      throw new Error(reason);
    },
    onFailure: (_, error) => {
      throw error;
    },
  });

test("reads both streams whole, in order, each chunk ending with a line", async () => {
  const text = Array.from({ length: 20_000 }, (_, index) => `line ${index}\n`).join("");
  writeFileSync(out, text);
  writeFileSync(err, "oops");

  const chunks = await collect(read({ streams: ["stdout", "stderr"] }));

  const ours = chunks.filter(({ stream }) => stream === "stdout");
  expect(textOf(ours)).toBe(text);
  expect(ours.every(({ data }) => data.length <= 65_536 && data.at(-1) === 10)).toBe(true);
  expect(textOf(chunks.filter(({ stream }) => stream === "stderr"))).toBe("oops");
});

test.each([
  [0, ""],
  [1, "three\n"],
  [2, "two\nthree\n"],
  [3, "one\ntwo\nthree\n"],
  [9, "one\ntwo\nthree\n"],
])("the last %i lines are %j", async (tailLines, expected) => {
  writeFileSync(out, "one\ntwo\nthree\n");

  expect(textOf(await collect(read({ tailLines })))).toBe(expected);
});

test("an unfinished line counts as one, and empty lines do", async () => {
  writeFileSync(out, "one\n\n\ntwo");

  expect(textOf(await collect(read({ tailLines: 1 })))).toBe("two");
  expect(textOf(await collect(read({ tailLines: 2 })))).toBe("\ntwo");
});

test("the tail of long lines is found across blocks", async () => {
  const lines = ["a".repeat(200_000), "b".repeat(65_535), "c".repeat(65_536), "d"].map((line) => `${line}\n`);
  writeFileSync(out, lines.join(""));

  for (const count of [1, 2, 3, 4]) {
    expect(textOf(await collect(read({ tailLines: count })))).toBe(lines.slice(-count).join(""));
  }
});

test("no file yet is no output", async () => {
  expect(await collect(read({ streams: ["stdout", "stderr"] }))).toEqual([]);
});

test("invalid UTF-8 and a line of ten megabytes pass unharmed", async () => {
  const bytes = Buffer.concat([
    Buffer.from([0xff, 0, 0xc3, 0x28]),
    Buffer.alloc(10 * mebibyte, 0x81),
    Buffer.from("\n"),
  ]);
  writeFileSync(out, bytes);

  const chunks = await collect(read());

  expect(Buffer.concat(chunks.map(({ data }) => data)).equals(bytes)).toBe(true);
  expect(Math.max(...chunks.map(({ data }) => data.length))).toBeLessThanOrEqual(65_536);
});

test("an offset is a cursor: reading goes on where it ended", async () => {
  writeFileSync(out, "one\ntwo\n");
  const [first] = await collect(read());
  appendFileSync(out, "three\n");

  const rest = await collect(read({ from: { stdout: (first?.offset ?? 0n) + BigInt(first?.data.length ?? 0) } }));

  expect(textOf(rest)).toBe("three\n");
});

test("following gives what is written later, on either stream, until it is aborted", async () => {
  writeFileSync(out, "old\n");
  const seen: string[] = [];
  const following = (async () => {
    for await (const { stream, data } of read({ streams: ["stdout", "stderr"], tailLines: 1, follow: true })) {
      seen.push(`${stream}: ${String(data)}`);
    }
  })();

  await eventually(() => seen.includes("stdout: old\n"));
  appendFileSync(out, "new\n");
  await eventually(() => seen.includes("stdout: new\n"));
  writeFileSync(err, "first word\n");
  await eventually(() => seen.includes("stderr: first word\n"));
  over.abort();
  await following;

  expect(seen).toEqual(["stdout: old\n", "stdout: new\n", "stderr: first word\n"]);
});

test("following wakes again after a long quiet", async () => {
  writeFileSync(out, "");
  const seen: string[] = [];
  const following = (async () => {
    for await (const { data } of read({ follow: true })) seen.push(String(data));
  })();
  // Longer than a growing file is looked at after its last growth: from here on only the kernel's watch can tell.
  await new Promise((resolve) => setTimeout(resolve, 1_500));

  appendFileSync(out, "awake\n");
  await eventually(() => seen.length === 1, { timeoutMs: 2_000 });
  over.abort();
  await following;
});

test("following ends with the last words when nothing more will be written, also where nothing ever was", async () => {
  writeFileSync(out, "one\n");
  const following = read({ follow: true });
  const silent = collect(read({ follow: true, streams: ["stderr"] }));
  expect((await following.next()).value).toMatchObject({ offset: 0n });

  appendFileSync(out, "two\n");
  rmSync(out);
  closed.abort();

  expect(textOf(await collect(following))).toBe("two\n");
  expect(await silent).toEqual([]);
});

test("what exceeds the limit is given back to the disk, and offsets go on", async () => {
  const bounded = keeper(mebibyte);
  await bounded.keep(out);
  const line = `${"x".repeat(1023)}\n`;
  for (let round = 0; round < 8; round++) appendFileSync(out, line.repeat(1024));

  const { head } = await eventually(async () => {
    const kept = await readKept(out);
    return kept.head >= 6n * BigInt(mebibyte) && kept;
  });
  await bounded.stop();
  const chunks = await collect(read());

  expect(statSync(out).size).toBe(8 * mebibyte);
  expect(statSync(out).blocks * 512).toBeLessThanOrEqual(1.25 * mebibyte);
  expect(chunks[0]?.offset).toBe(head);
  expect(textOf(chunks)).toBe(line.repeat(8192).slice(Number(head)));
  expect(textOf(await collect(read({ tailLines: 2 })))).toBe(line.repeat(2));
});

test("a reader that is overtaken goes on at what is kept, and never sees a hole", async () => {
  const line = `${"y".repeat(1023)}\n`;
  writeFileSync(out, line.repeat(4096));
  const reader = read({ follow: true });
  await reader.next();

  const bounded = keeper(mebibyte);
  await bounded.keep(out);
  await eventually(async () => (await readKept(out)).head > 0n);
  await bounded.stop();
  over.abort();
  const chunk = await collect(read({ from: { stdout: 65_536n } }));

  expect(chunk.every(({ data }) => !data.includes(0))).toBe(true);
  expect(textOf(chunk).length).toBeLessThanOrEqual(1.25 * mebibyte);
  await reader.return();
});

test("a service that floods both its streams fills neither the disk nor our memory, whoever reads or does not", async () => {
  const bench = new Workbench();
  const [keepBytes, floodBytes] = [32 * mebibyte, 512 * mebibyte];
  const bounded = keeper(keepBytes);
  const before = process.memoryUsage().rss;
  let fattest = 0;
  try {
    const flood = (letters: string) => `yes ${letters.repeat(33)} | head -c ${floodBytes}`;
    const launched = await bench.launch(["sh", "-c", `${flood("out")} & ${flood("err")} >&2; wait`]);
    const paths = { stdoutPath: `${launched.runDir}.stdout`, stderrPath: `${launched.runDir}.stderr` };
    const all = Object.values(paths);
    for (const path of all) await bounded.keep(path);
    const streams = ["stdout", "stderr"] as const;
    const follower = drain(read({ ...paths, streams, follow: true }));
    const stalled = read({ ...paths, streams, follow: true });
    const firstOfStalled = stalled.next();
    await launched.release();
    const first = await firstOfStalled;
    const watch = setInterval(() => {
      fattest = Math.max(fattest, process.memoryUsage().rss - before);
    }, 10);
    expect(await launched.exited).toMatchObject({ code: 0 });
    await eventually(() => all.every((path) => diskBytes(path) <= keepBytes * 1.2));
    closed.abort();
    const ends = await follower;
    clearInterval(watch);
    const endsOfStalled = await drain(stalled, first.done === true ? undefined : first.value);

    expect(all.map((path) => statSync(path).size)).toEqual([floodBytes, floodBytes]);
    expect(ends).toEqual({ stdout: BigInt(floodBytes), stderr: BigInt(floodBytes) });
    expect(endsOfStalled).toEqual(ends);
    expect(fattest).toBeLessThan(100 * mebibyte);
  } finally {
    await bounded.stop();
    await bench.clear();
  }
});

test("a follower that keeps up sees every byte, however often the beginning is given back", async () => {
  const bench = new Workbench();
  const bounded = keeper(mebibyte);
  const steps = 24;
  try {
    const gate = join(bench.directory, "gate");
    execFileSync("mkfifo", [gate]);
    const step = `while read -r letter; do head -c ${mebibyte} /dev/zero | tr '\\0' "$letter"; echo; done`;
    const launched = await bench.launch(["sh", "-c", `exec <${gate}; ${step}`]);
    const path = `${launched.runDir}.stdout`;
    await bounded.keep(path);
    await launched.release();
    const hash = createHash("sha256");
    const expected = createHash("sha256");
    const writer = openSync(gate, "w");
    const letters = Array.from({ length: steps }, (_, each) => String.fromCharCode(97 + each));
    const next = () => {
      const letter = letters.shift();
      if (letter === undefined) return closeSync(writer);
      expected.update(letter.repeat(mebibyte)).update("\n");
      writeSync(writer, `${letter}\n`);
    };

    next();
    let seen = 0;
    for await (const { data, offset } of read({ stdoutPath: path, follow: true })) {
      expect(offset).toBe(BigInt(seen));
      hash.update(data);
      seen += data.length;
      if (seen % (mebibyte + 1) === 0) next();
      if (seen === steps * (mebibyte + 1)) break;
    }
    await launched.exited;

    expect(hash.digest("hex")).toBe(expected.digest("hex"));
    expect((await readKept(path)).head).toBeGreaterThan(BigInt(steps / 2) * BigInt(mebibyte));
  } finally {
    await bounded.stop();
    await bench.clear();
  }
});

test("where a file cannot be given back it begins anew, once told, and offsets still grow", async (context) => {
  // ramfs knows no holes.
  const place = join(directory, "ramfs");
  if (!mountRamfs(place)) return context.skip("not allowed to mount a file system without holes");
  try {
    const path = join(place, "stdout");
    const told: string[] = [];
    const bounded = new OutputKeeper({
      keepBytes: mebibyte,
      onBeginAnew: (file) => told.push(file),
      onFailure: (_, error) => told.push(String(error)),
    });
    await bounded.keep(path);
    appendFileSync(path, "w".repeat(2 * mebibyte));
    await eventually(() => statSync(path).size === 0);
    await eventually(async () => (await readKept(path)).base === BigInt(2 * mebibyte));
    appendFileSync(path, "next\n");
    await bounded.stop();

    const chunks = await collect(read({ stdoutPath: path }));
    expect(told).toEqual([path]);
    expect(chunks).toMatchObject([{ stream: "stdout", offset: BigInt(2 * mebibyte), data: Buffer.from("next\n") }]);
  } finally {
    execFileSync("umount", ["-l", place]);
  }
});

function mountRamfs(place: string): boolean {
  try {
    execFileSync("mkdir", [place]);
    execFileSync("mount", ["-t", "ramfs", "none", place], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

async function collect(chunks: AsyncIterable<OutputChunk>): Promise<OutputChunk[]> {
  const all: OutputChunk[] = [];
  for await (const chunk of chunks) all.push(chunk);
  return all;
}

/** Reads to the end; resolves with the offset after the last byte of each stream. */
async function drain(chunks: AsyncIterable<OutputChunk>, first?: OutputChunk) {
  const next = { stdout: 0n, stderr: 0n };
  if (first !== undefined) next[first.stream] = first.offset + BigInt(first.data.length);
  for await (const { stream, offset, data } of chunks) {
    if (offset < next[stream] || data.includes(0)) throw new Error("a hole or a repetition was read");
    next[stream] = offset + BigInt(data.length);
  }
  return next;
}

function diskBytes(path: string): number {
  return statSync(path).blocks * 512;
}

function textOf(chunks: readonly OutputChunk[]): string {
  return Buffer.concat(chunks.map(({ data }) => data)).toString();
}
