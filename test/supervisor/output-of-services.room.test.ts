import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { OutputChunk } from "../../src/supervisor/output.ts";
import { samplesAfter } from "../../src/supervisor/output-times.ts";
import { eventually } from "../support/eventually.ts";
import { type OwnPlane, openPlane } from "./own-plane.ts";
import type { Plane } from "./plane.ts";

let own: OwnPlane;
let plane: Plane;
beforeEach(async () => {
  own = await openPlane();
  ({ plane } = own);
});
afterEach(() => own.clear());

const counting = ["sh", "-c", "i=0; while :; do i=$((i + 1)); echo $i; echo $i >&2; sleep 0.01; done"];

test("what a service wrote is told in its order across both streams, each with its time", async () => {
  const gates = ["one", "two"].map((name) => join(own.stateDirectory.path, name));
  for (const gate of gates) execFileSync("mkfifo", [gate]);
  const [one = "", two = ""] = gates;
  const begun = Date.now();
  await plane.create("x", [
    "sh",
    "-c",
    `echo first; read x <${one}; echo second >&2; read x <${two}; echo third; sleep 1000`,
  ]);

  await written("x", "stdout", "first\n");
  writeFileSync(one, "\n");
  await written("x", "stderr", "second\n");
  writeFileSync(two, "\n");
  await written("x", "stdout", "first\nthird\n");
  const chunks = await Array.fromAsync(await logs("x"));

  expect(chunks.map(({ data }) => data.toString())).toEqual(["first\n", "second\n", "third\n"]);
  for (const { time } of chunks) {
    expect(time.getTime()).toBeGreaterThan(begun - 1_000);
    expect(time.getTime()).toBeLessThanOrEqual(Date.now());
  }
});

test("a follower goes on over a restart of the service", async () => {
  await plane.create("x", ["sh", "-c", "echo run of $$; exec sleep 1000"]);
  const follower = follow(await logs("x", { follow: true }));
  await eventually(() => follower.text("stdout").includes("\n"));

  await plane.wish("restart", "x");

  const lines = () => new Set(follower.text("stdout").match(/run of \d+\n/g));
  await eventually(() => lines().size === 2);
  await follower.end();
});

test("a place that was reached is gone on from after restarts of service and server, without loss or repetition", async () => {
  await plane.create("x", counting);
  const before = follow(await logs("x", { follow: true }));
  await eventually(() => before.text("stderr").includes("\n20\n"));
  await before.end();
  await plane.letGo();
  const whileAway = (await plane.service("x")).status;
  const path = await pathOf("x", "stdout");
  await eventually(() => readFileSync(path).length > before.text("stdout").length + 100);

  await plane.supervise();
  await plane.wish("restart", "x");
  const after = follow(await logs("x", { follow: true, from: before.place }));
  await plane.until("x", ({ status }) => status.state === "running" && status.instanceId !== whileAway.instanceId);
  await eventually(
    () => after.text("stderr").split("\n1\n").length > 1 && after.text("stdout").split("\n1\n").length > 1,
  );
  await after.end();

  for (const stream of ["stdout", "stderr"] as const) {
    const seen = before.text(stream) + after.text(stream);
    expect(seen).toBe((await plane.output("x", stream)).slice(0, seen.length));
  }
  expect(after.times).toEqual(after.times.toSorted((one, other) => one - other));
});

test("what was written since a time is told from there on, also by a server that came later", async () => {
  await plane.create("x", counting);
  await eventually(async () => (await plane.output("x")).includes("\n20\n"));
  const since = new Date();
  await eventually(async () => (await plane.output("x")).includes("\n80\n"));
  await plane.letGo();
  await plane.supervise();

  const [first] = await Array.fromAsync(await logs("x", { since }));

  expect(first?.offset).toBeGreaterThan(10n);
  expect(first?.time.getTime()).toBeGreaterThanOrEqual(since.getTime());
});

test("the end of a service is the end of its followers", async () => {
  await plane.create("x", counting);
  const follower = follow(await logs("x", { follow: true }));
  await eventually(() => follower.text("stdout") !== "");

  await plane.remove("x");

  await follower.over;
});

test("a disk that is almost full is a condition of every service, also of one that comes later, until it is not", async () => {
  await plane.create("x", ["sleep", "1000"]);
  await plane.until("x", "running");

  plane.supervisor.tellOutputRisk("the disk is almost full");
  await plane.until("x", ({ status }) => status.conditions.some(({ type }) => type === "output_at_risk"));
  await plane.create("y", ["sleep", "1000"]);
  await plane.until("y", ({ status }) => status.conditions.some(({ type }) => type === "output_at_risk"));
  plane.supervisor.tellOutputRisk("");

  for (const name of ["x", "y"]) {
    await plane.until(name, ({ status }) => status.conditions.length === 0);
    expect(await plane.typesOf(name)).toEqual(expect.arrayContaining(["condition_raised", "condition_cleared"]));
  }
});

type Request = Partial<Parameters<Plane["supervisor"]["logs"]>[0]>;

const over = new Map<AsyncIterable<OutputChunk>, AbortController>();

async function logs(name: string, request: Request = {}): Promise<AsyncIterable<OutputChunk>> {
  const abort = new AbortController();
  const service = await plane.service(name);
  const streams = ["stdout", "stderr"] as const;
  const chunks = plane.supervisor.logs({ service, streams, follow: false, signal: abort.signal, ...request });
  over.set(chunks, abort);
  return chunks;
}

/** Reads on its own until it is ended. */
function follow(chunks: AsyncIterable<OutputChunk>) {
  const seen: OutputChunk[] = [];
  const reading = (async () => {
    for await (const chunk of chunks) seen.push(chunk);
  })();
  return {
    over: reading,
    text: (stream: "stdout" | "stderr") =>
      Buffer.concat(seen.filter((chunk) => chunk.stream === stream).map(({ data }) => data)).toString(),
    get times() {
      return seen.map(({ time }) => time.getTime());
    },
    get place() {
      return seen.at(-1)?.next;
    },
    async end() {
      over.get(chunks)?.abort();
      await reading;
    },
  };
}

/** Resolves once a stream holds that and it was noted when, a moment ago. */
async function written(name: string, stream: "stdout" | "stderr", text: string): Promise<void> {
  const path = await pathOf(name, stream);
  await eventually(async () => (await plane.output(name, stream)) === text);
  await eventually(async () => {
    const { samples } = await samplesAfter(path, 0n);
    const last = samples.at(-1);
    return last !== undefined && Date.now() - last.time > 20;
  });
}

async function pathOf(name: string, stream: "stdout" | "stderr"): Promise<string> {
  const { uid } = await plane.service(name);
  return join(own.stateDirectory.path, "logs", uid, `${stream}.log`);
}
