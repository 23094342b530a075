import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TestSteward } from "./harness.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** What somebody writes who has installed the package. */
const program = `
import { Code, createStewardClient, ErrorReason, type ServicesUpdate, StewardError } from "steward";
import type { Service } from "steward/gen/steward/v1/service_pb";
import { EventType } from "steward/gen/steward/v1/event_pb";

const [address = "", token = ""] = process.argv.slice(2);
const client = createStewardClient({ address, token: async () => token });
const spec = { url: "http://127.0.0.1:9", kind: { case: "external" as const, value: {} } };
const { service } = await client.registry.create({ serviceId: "wiki", service: { spec } });
const created: Service | undefined = service;
const seen: string[] = [];
for await (const update of client.watchServices()) {
  const first: ServicesUpdate = update;
  if (first.kind === "snapshot") seen.push(...first.services.map(({ name }) => name));
  break;
}
for await (const update of client.watchEvents({ after: { revision: 0n }, types: [EventType.SERVICE_CREATED] })) {
  if (update.kind !== "events") continue;
  seen.push(...update.events.map((event) => event.service));
  break;
}
const refusal = await client.registry.get({ name: "nothing" }).catch((error: unknown) => error);
if (!(refusal instanceof StewardError)) throw refusal;
const { code, reason } = refusal;
console.log(JSON.stringify({ created: created?.name, seen, code: Code[code], isMissing: reason === ErrorReason.SERVICE_NOT_FOUND }));
client.close();
`;

/** npm and tsc would keep compiled code in the temporary directory. */
const tidy = { NODE_DISABLE_COMPILE_CACHE: "1" };

const older = await olderNode();

const compilerOptions = {
  ...{ target: "es2024", module: "nodenext", types: ["node"], strict: true, noEmit: true },
  ...{ exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true, verbatimModuleSyntax: true },
};

describe("the package that npm pack makes", () => {
  let project: string;
  let contents: string[];

  beforeAll(async () => {
    project = await mkdtemp(join(tmpdir(), "steward-package-"));
    contents = await install(project);
    await writeFile(join(project, "package.json"), JSON.stringify({ type: "module" }));
    await writeFile(join(project, "program.ts"), program);
    await writeFile(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["program.ts"] }));
  });
  afterAll(() => rm(project, { recursive: true, force: true }));

  test("holds what was built, the proto and the command, and neither sources nor tests", async () => {
    const top = new Set(contents.map((path) => path.split("/")[1]));

    const expected = ["CHANGELOG.md", "LICENSE", "README.md", "bin", "dist", "package.json", "proto"];
    expect(top).toEqual(new Set(expected));
    expect(contents.filter((path) => /(?<!\.d)\.ts$/.test(path))).toEqual([]);
  });

  test("has every file that its manifest points to", async () => {
    const manifest = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as {
      bin: Record<string, string>;
      exports: { ".": Record<string, string> };
    };

    for (const path of [...Object.values(manifest.bin), ...Object.values(manifest.exports["."])]) {
      expect(contents).toContain(join("package", path));
    }
  });

  test("type-checks and runs a program against the server that it installs", async () => {
    const command = join(project, "node_modules", "steward", "bin", "steward");
    await using steward = await TestSteward.start({ command: [command] });
    const { connect } = steward.addresses;

    await execa(join(root, "node_modules", ".bin", "tsc"), ["-p", project], { env: tidy });
    const { stdout } = await execa(process.execPath, ["program.ts", connect, steward.adminToken], { cwd: project });

    const output = { created: "wiki", seen: ["wiki", "wiki"], code: "NotFound", isMissing: true };
    expect(JSON.parse(stdout)).toEqual(output);
  });

  test.skipIf(older === undefined)("says in one line that the host's Node is too old", async () => {
    const entry = join(project, "node_modules", "steward", "dist", "src", "steward.js");

    const { exitCode, stderr } = await execa(older ?? "", [entry, "serve"], { reject: false });

    expect({ exitCode, stderr }).toEqual({
      exitCode: 2,
      stderr: expect.stringMatching(/^steward needs Node 22\.18 or newer; this is v\d+\.\d+\.\d+\. [^\n]+$/),
    });
  });
});

/** A `node` of the host that is older than the floor, if it has one. */
async function olderNode(): Promise<string | undefined> {
  for (const directory of process.env["PATH"]?.split(delimiter) ?? []) {
    const node = join(directory, "node");
    const { stdout } = await execa(node, ["--version"], { reject: false });
    if (/^v(?:1\d|2[01])\./.test(stdout)) return node;
  }
  return undefined;
}

/** As `npm install FILE` would, but that dependencies come from the repository: there may be no registry. Returns the paths in the archive. */
async function install(project: string): Promise<string[]> {
  await execa("npm", ["pack", "--silent", "--pack-destination", project], { cwd: root, env: tidy });
  const [archive = ""] = (await readdir(project)).filter((file) => file.endsWith(".tgz"));
  const modules = join(project, "node_modules");
  await mkdir(join(modules, "steward"), { recursive: true });
  for (const name of await readdir(join(root, "node_modules"))) {
    await symlink(join(root, "node_modules", name), join(modules, name));
  }
  const target = join(modules, "steward");
  await execa("tar", ["-xzf", join(project, archive), "-C", target, "--strip-components=1"]);
  const { stdout } = await execa("tar", ["-tzf", join(project, archive)]);
  return stdout.split("\n").filter((path) => !path.endsWith("/"));
}
