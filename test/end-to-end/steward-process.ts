import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { eventually } from "../support/eventually.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

export interface CliResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A whole Steward on a state directory of its own, driven by its command line as a person would. */
export class StewardProcess {
  readonly stateDir: string;
  #server: { pid: number | undefined; ended: Promise<unknown> } | undefined;
  readonly #flags: readonly string[];

  private constructor(stateDir: string, flags: readonly string[]) {
    this.stateDir = stateDir;
    this.#flags = flags;
  }

  static async create(flags: readonly string[] = []): Promise<StewardProcess> {
    const stateDir = await mkdtemp(join(tmpdir(), "steward-e2e-"));
    // The proxy keeps its port over restarts, as it would for its public.
    return new StewardProcess(stateDir, ["--proxy-listen", `127.0.0.1:${await freePort()}`, ...flags]);
  }

  /** Resolves when the server is healthy. */
  async start(): Promise<void> {
    await rm(join(this.stateDir, "server.json"), { force: true });
    const args = [
      "src/steward.ts",
      "serve",
      "--listen",
      "127.0.0.1:0",
      "--grpc-listen",
      "127.0.0.1:0",
      "--proxy-listen",
      "127.0.0.1:0",
    ];
    const log = join(this.stateDir, "serve.log");
    const child = execa(process.execPath, [...args, "--drain", "0.1", "--log-format", "json", ...this.#flags], {
      cwd: root,
      env: { STEWARD_STATE_DIR: this.stateDir },
      reject: false,
      stdout: { file: log, append: true },
      stderr: { file: log, append: true },
      stdin: "ignore",
    });
    this.#server = { pid: child.pid, ended: child.then(() => undefined) };
    const early = child.then(async () => {
      throw new Error(`the server ended:\n${await readFile(log, "utf8")}`);
    });
    const healthy = eventually(async () => (await this.addresses()) && (await this.cli("health")).exitCode === 0, {
      timeoutMs: 60_000,
    });
    await Promise.race([healthy, early]);
    early.catch(() => undefined);
  }

  async kill(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    const { pid, ended } = this.#server ?? {};
    if (pid === undefined) return;
    process.kill(pid, signal);
    this.#server = undefined;
    await ended;
  }

  /** Deletes all services, so that nothing is left running, stops the server and removes its state. */
  async destroy(): Promise<void> {
    if (this.#server === undefined) await this.start();
    const names = (await this.cli("get", "services", "-o", "name")).stdout.split("\n").filter(Boolean);
    await Promise.all(names.map((name) => this.cli("delete", name, "--force", "--wait")));
    await this.kill("SIGTERM");
    await rm(this.stateDir, { recursive: true, force: true });
  }

  async cli(...args: readonly string[]): Promise<CliResult> {
    return this.cliWith("", ...args);
  }

  /** Runs a command with the text as its standard input. */
  async cliWith(input: string, ...args: readonly string[]): Promise<CliResult> {
    const result = await execa(process.execPath, ["src/steward.ts", ...args], {
      cwd: root,
      env: { STEWARD_STATE_DIR: this.stateDir },
      reject: false,
      input,
    });
    return { exitCode: result.exitCode ?? -1, stdout: result.stdout, stderr: result.stderr };
  }

  async json<T>(...args: readonly string[]): Promise<T> {
    const { exitCode, stdout, stderr } = await this.cli(...args, "-o", "json");
    if (exitCode !== 0) throw new Error(stderr);
    return JSON.parse(stdout) as T;
  }

  async addresses(): Promise<{ connect: string; grpc: string; proxy: string }> {
    return (
      JSON.parse(await readFile(join(this.stateDir, "server.json"), "utf8")) as {
        addresses: { connect: string; grpc: string; proxy: string };
      }
    ).addresses;
  }

  async adminToken(): Promise<string> {
    return (await readFile(join(this.stateDir, "admin-token"), "utf8")).trim();
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}
