import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterEach, beforeEach, expect, test } from "vitest";

let root: string;
let stateDir: string;
let compiled: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "steward-compiled-"));
  stateDir = join(root, "state");
  compiled = join(stateDir, "compiled");
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

test("what is compiled is kept in the state directory, for its owner alone, and serves the next start", async () => {
  await startOnce();
  const [version = "", ...others] = readdirSync(compiled);
  const kept = readdirSync(join(compiled, version));

  const again = await startOnce();

  expect(others).toEqual([]);
  expect(kept.length).toBeGreaterThan(0);
  expect([stateDir, compiled].map((path) => statSync(path).mode & 0o777)).toEqual([0o700, 0o700]);
  expect(again).toContain("was accepted");
  expect(again).not.toContain("was rejected");
  expect(readdirSync(join(compiled, version))).toEqual(kept);
});

test("what another version of Node left is forgotten", async () => {
  mkdirSync(join(compiled, "v22.18.0-x64"), { recursive: true });
  chmodSync(compiled, 0o700);

  await startOnce();

  const left = readdirSync(compiled);
  expect(left).toHaveLength(1);
  expect(left).not.toContain("v22.18.0-x64");
});

test.each(["the state directory", "the directory of compiled code"])(
  "nothing is kept, or read, where somebody else can write: %s",
  async (what) => {
    mkdirSync(compiled, { recursive: true });
    chmodSync(what === "the state directory" ? stateDir : compiled, 0o777);

    await startOnce();

    expect(readdirSync(compiled)).toEqual([]);
  },
);

/** A process that uses the directory as a server does; tells what Node says of its compiled code. */
async function startOnce(): Promise<string> {
  const place = JSON.stringify(new URL("../src/compiled-code.ts", import.meta.url).href);
  const program = `
    const { useCompiledCode, keepCompiledCode } = await import(${place});
    useCompiledCode(${JSON.stringify(stateDir)});
    await import("commander");
    await keepCompiledCode();`;
  const env = { NODE_DEBUG_NATIVE: "COMPILE_CACHE" };
  const { all } = await execa(process.execPath, ["--input-type=module", "--eval", program], { env, all: true });
  return all;
}
