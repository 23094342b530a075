import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createStewardClient } from "../../src/client.ts";
import { TestSteward } from "./harness.ts";
import { Relay } from "./relay.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const clients = join(root, "examples/clients");
const buildMs = 10 * 60_000;

/** A program in another language and how to have it ready. */
interface Sdk {
  readonly language: string;
  /** Why it cannot be tried here; undefined if it can. */
  readonly missing: string | undefined;
  readonly prepare: (directory: string) => Promise<unknown>;
  readonly command: (address: string, name: string) => readonly [string, ...string[]];
  readonly listeners: readonly ("connect" | "grpc")[];
}

let directory: string;
let steward: TestSteward;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "steward-sdk-"));
  steward = await TestSteward.start();
});

afterAll(async () => {
  await steward[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

const python = process.env["STEWARD_PYTHON"] ?? "python3";

const sdks: readonly Sdk[] = [
  {
    language: "Go with grpc-go",
    missing: runs("go", "version") ? undefined : "there is no go",
    prepare: (into) => buildGo("go", into),
    command: (address, name) => [join(directory, "go"), address, name],
    listeners: ["connect", "grpc"],
  },
  ...(["connect", "grpc", "grpc-web"] as const).map(
    (protocol): Sdk => ({
      language: `Go with connect-go over ${protocol}`,
      missing: runs("go", "version") ? undefined : "there is no go",
      prepare: (into) => buildGo("go-connect", into),
      command: (address, name) => [join(directory, "go-connect"), `http://${address}`, name, protocol],
      listeners: protocol === "grpc" ? ["connect", "grpc"] : ["connect"],
    }),
  ),
  {
    language: "Python with grpcio",
    missing: runs(python, "-c", "import grpc_tools, grpc_status") ? undefined : `${python} has no grpcio-tools`,
    prepare: generatePython,
    command: (address, name) => [python, join(clients, "python/client.py"), address, name],
    listeners: ["connect", "grpc"],
  },
  {
    language: "TypeScript with grpc-js",
    missing: undefined,
    prepare: async () => undefined,
    command: (address, name) => [process.execPath, join(clients, "grpc-js/client.ts"), address, name],
    listeners: ["connect", "grpc"],
  },
  ...(["connect", "grpc", "grpc-web"] as const).map(
    (protocol): Sdk => ({
      language: `TypeScript with connect-es over ${protocol}`,
      missing: undefined,
      prepare: async () => undefined,
      command: (address, name) => [
        process.execPath,
        join(clients, "typescript/client.ts"),
        `http://${address}`,
        name,
        protocol,
      ],
      listeners: protocol === "grpc" ? ["connect", "grpc"] : ["connect"],
    }),
  ),
];

describe.each(sdks)("$language", ({ language, missing, prepare, command, listeners }) => {
  if (missing !== undefined) {
    if (process.env["STEWARD_ALL_LANGUAGES"]) throw new Error(`not to be skipped here: ${missing}`);
    test.skip(`is not tried: ${missing}`, () => undefined);
    return;
  }

  beforeAll(() => prepare(directory), buildMs);

  test.for(listeners)(
    "registers a service, watches it over a reset, and tells errors apart, on %s",
    async (listener, { signal }) => {
      await using relay = await Relay.to(steward.addresses[listener]);
      using admin = createStewardClient({ address: steward.addresses.connect, token: steward.adminToken });
      const name = `${language} ${listener}`.replaceAll(/\W+/g, "-").slice(0, 63);
      const next: Record<string, () => unknown> = {
        "seen EVENT_TYPE_SERVICE_CREATED": () => relay.reset(),
        interrupted: () =>
          admin.registry.update({
            service: { name, spec: { labels: { team: "sdk" } } },
            updateMask: { paths: ["spec.labels"] },
          }),
        "seen EVENT_TYPE_SERVICE_UPDATED": () => admin.registry.delete({ name }),
      };

      const lines = await run(command(relay.address, name), { signal, onLine: (line) => next[line]?.() });

      // Languages write the names of codes in their own way.
      expect(lines.map((line) => line.replace(/^refused \w+/, "refused CODE"))).toEqual([
        `created ${name}`,
        "refused CODE SERVICE_EXISTS",
        "seen EVENT_TYPE_SERVICE_CREATED",
        "interrupted",
        "seen EVENT_TYPE_SERVICE_UPDATED",
        "seen EVENT_TYPE_SERVICE_DELETED",
      ]);
      expect(lines[1]?.toLowerCase()).toMatch(/^refused already_?exists /);
    },
  );
});

/** Runs a client to its end; says each line as it comes and returns all. */
async function run(
  [file, ...args]: readonly [string, ...string[]],
  { signal, onLine }: { readonly signal: AbortSignal; readonly onLine: (line: string) => unknown },
): Promise<string[]> {
  const env = { ...process.env, STEWARD_TOKEN: steward.adminToken, STEWARD_GEN: join(directory, "python") };
  const child = spawn(file, args, { env, stdio: ["ignore", "pipe", "pipe"] });
  signal.addEventListener("abort", () => child.kill("SIGKILL"));
  let errors = "";
  child.stderr.on("data", (data: Buffer) => (errors += data.toString()));
  const lines: string[] = [];
  const reactions: unknown[] = [];
  createInterface({ input: child.stdout }).on("line", (line) => {
    lines.push(line);
    reactions.push(onLine(line));
  });
  await once(child, "close");
  await Promise.all(reactions);
  if (child.exitCode !== 0) throw new Error(`the client ended with ${child.exitCode}:\n${lines.join("\n")}\n${errors}`);
  return lines;
}

function runs(file: string, ...args: readonly string[]): boolean {
  return spawnSync(file, args, { stdio: "ignore" }).status === 0;
}

/** Once for all protocols that the program speaks. */
async function buildGo(program: "go" | "go-connect", into: string): Promise<void> {
  if (existsSync(join(into, program))) return;
  const cwd = join(clients, program);
  const paths = ["proto/steward", "proto/third_party/buf"].flatMap((path) => ["--path", join("../../..", path)]);
  await execa("buf", ["generate", "../../..", ...paths], { cwd, preferLocal: true, localDir: root });
  await execa("go", ["build", "-o", join(into, program), "."], { cwd });
}

async function generatePython(into: string): Promise<void> {
  const out = join(into, "python");
  await execa("mkdir", ["-p", out]);
  const files = ["buf/validate/validate.proto", "google/api/field_behavior.proto"];
  const { stdout } = await execa("find", ["steward", "-name", "*.proto"], { cwd: join(root, "proto") });
  const args = ["-m", "grpc_tools.protoc", "-I", "proto", "-I", "proto/third_party"];
  await execa(python, [...args, `--python_out=${out}`, `--grpc_python_out=${out}`, ...stdout.split("\n"), ...files], {
    cwd: root,
  });
}
