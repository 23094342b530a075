import { chmod, copyFile, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { afterEach, beforeEach, expect, test } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "steward-node-"));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

test.each(["20.20.2", "22.17.1"])("Node %s is refused in one line", async (version) => {
  const node = await nodeThatSaysItIs(version);

  const { exitCode, stdout, stderr } = await execa(node, [join(root, "src/steward.ts"), "serve"], { reject: false });

  expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: "" });
  expect(stderr).toMatch(new RegExp(`^steward needs Node 22.18 or newer; this is v${version}\\. [^\\n]+$`));
});

test("the oldest Node that is not too old is not refused", async () => {
  const node = await nodeThatSaysItIs("22.18.0");

  const { exitCode, stderr } = await execa(node, [join(root, "src/steward.ts"), "--version"], { reject: false });

  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
});

test.each([
  ["too old", "v20.20.2"],
  ["missing", "missing"],
])("the command says so when it has no Node of its own and the host's is %s", async (_, host) => {
  // As the command is installed without the optional dependency that brings Node.
  const command = join(directory, "package", "bin", "steward");
  await mkdir(join(directory, "package", "bin"), { recursive: true });
  await copyFile(join(root, "bin", "steward"), command);
  for (const tool of ["readlink", "dirname"]) await symlink(`/usr/bin/${tool}`, join(directory, tool));
  if (host !== "missing") await nodeThatSaysItIs(host.slice(1));

  const env = { PATH: directory };
  const { exitCode, stderr } = await execa("/bin/sh", [command, "serve"], { env, extendEnv: false, reject: false });

  expect(exitCode).toBe(2);
  expect(stderr).toBe(`steward: needs Node 22.18 or newer, and its own was not installed; the host's is ${host}`);
});

/** The `node` of the tests, which takes itself for another. */
async function nodeThatSaysItIs(version: string): Promise<string> {
  const path = join(directory, "node");
  const preload = `
    Object.defineProperty(process, "version", { value: "v${version}" });
    Object.defineProperty(process, "versions", { value: { ...process.versions, node: "${version}" } });`;
  await writeFile(join(directory, "preload.mjs"), preload);
  const script = `#!/bin/sh
[ "$1" = --version ] && echo v${version} && exit
exec "${process.execPath}" --import "${directory}/preload.mjs" "$@"`;
  await writeFile(path, script);
  await chmod(path, 0o700);
  return path;
}
