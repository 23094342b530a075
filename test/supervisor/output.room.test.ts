import { execFileSync } from "node:child_process";
import { appendFileSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
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
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "steward-output-"));
  out = join(directory, "stdout");
  err = join(directory, "stderr");
  over = new AbortController();
});
afterEach(() => {
  over.abort();
  rmSync(directory, { recursive: true, force: true });
});

const read = (more: Partial<OutputRequest> = {}) =>
  readOutput({ stdoutPath: out, stderrPath: err, streams: ["stdout"], follow: false, signal: over.signal, ...more });

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

test("following ends when the files are removed", async () => {
  writeFileSync(out, "one\n");
  const following = read({ follow: true });
  expect((await following.next()).value).toMatchObject({ offset: 0n });

  rmSync(out);

  expect(await collect(following)).toEqual([]);
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

test("a service that floods its output fills neither the disk nor our memory", async () => {
  const bench = new Workbench();
  const keepBytes = 32 * mebibyte;
  const bounded = keeper(keepBytes);
  const before = process.memoryUsage().rss;
  let widest = 0;
  let fattest = 0;
  try {
    const launched = await bench.launch(["sh", "-c", `yes ${"z".repeat(99)} | head -c ${400 * mebibyte}`]);
    const path = `${launched.runDir}.stdout`;
    await bounded.keep(path);
    const tail = drain(
      readOutput({ stdoutPath: path, stderrPath: err, streams: ["stdout"], follow: true, signal: over.signal }),
    );
    await launched.release();
    const watch = setInterval(() => {
      widest = Math.max(widest, statSync(path).blocks * 512);
      fattest = Math.max(fattest, process.memoryUsage().rss - before);
    }, 10);
    expect(await launched.exited).toMatchObject({ code: 0 });
    await eventually(() => statSync(path).blocks * 512 <= keepBytes * 1.2);
    clearInterval(watch);
    over.abort();
    await tail;

    expect(statSync(path).size).toBe(400 * mebibyte);
    expect(widest).toBeLessThan(keepBytes + 250 * mebibyte);
    expect(fattest).toBeLessThan(100 * mebibyte);
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
    expect(chunks).toEqual([{ stream: "stdout", offset: BigInt(2 * mebibyte), data: Buffer.from("next\n") }]);
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

async function drain(chunks: AsyncIterable<OutputChunk>): Promise<void> {
  let next = 0n;
  for await (const { offset, data } of chunks) {
    if (offset < next || data.includes(0)) throw new Error("a hole or a repetition was read");
    next = offset + BigInt(data.length);
  }
}

function textOf(chunks: readonly OutputChunk[]): string {
  return Buffer.concat(chunks.map(({ data }) => data)).toString();
}
