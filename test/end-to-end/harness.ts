import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { endInstances } from "../supervisor/state-directory.ts";
import { eventually } from "../support/eventually.ts";
import { runVariables } from "../support/test-run.ts";

export interface TestStewardOptions {
  /** Further flags of `steward serve`, by name. */
  readonly flags?: Readonly<Record<string, string>>;
  /** Default: no proxy. */
  readonly proxy?: "bundled" | "off";
  readonly environment?: Readonly<Record<string, string>>;
  /** Whether its services run on when it is stopped in order. Default: no. */
  readonly keepServices?: boolean;
  /** What is run. Default: the sources, with the node of the tests. */
  readonly command?: readonly [file: string, ...args: string[]];
}

export interface TestAddresses {
  readonly connect: string;
  readonly grpc: string;
  /** Undefined without a proxy. */
  readonly proxy: string | undefined;
}

const entry = new URL("../../src/steward.ts", import.meta.url).pathname;

/** `steward serve` as a user runs it: a process of its own, with its embedded Postgres, in a directory that is gone afterwards. */
export class TestSteward {
  readonly stateDir: string;
  readonly #root: string;
  readonly #options: TestStewardOptions;
  readonly #proxyPort: number;
  #child: ChildProcess | undefined;
  #log = "";
  #addresses: TestAddresses | undefined;
  #adminToken = "";

  private constructor(root: string, proxyPort: number, options: TestStewardOptions) {
    this.#root = root;
    this.stateDir = join(root, "state");
    this.#proxyPort = proxyPort;
    this.#options = options;
  }

  /** Resolves when it serves. */
  static async start(options: TestStewardOptions = {}): Promise<TestSteward> {
    const root = await mkdtemp(join(tmpdir(), "steward-test-"));
    const steward = new TestSteward(root, await freePort(), options);
    await steward.startAgain();
    return steward;
  }

  get addresses(): TestAddresses {
    if (this.#addresses === undefined) throw new Error("the server does not run");
    return this.#addresses;
  }

  get adminToken(): string {
    return this.#adminToken;
  }

  get pid(): number {
    if (this.#child?.pid === undefined) throw new Error("the server does not run");
    return this.#child.pid;
  }

  /** Everything that the server has written to its log. */
  get log(): string {
    return this.#log;
  }

  /** Starts the server on what an earlier one left in its state directory. */
  async startAgain(): Promise<void> {
    const [file, ...args] = this.#options.command ?? [process.execPath, entry];
    const child = spawn(file, [...args, "serve", ...this.#arguments()], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { PATH: process.env["PATH"], HOME: process.env["HOME"], ...runVariables(), ...this.#options.environment },
    });
    this.#child = child;
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (data: Buffer) => (this.#log += data.toString()));
    this.#addresses = await eventually(() => this.#readAddresses(child), { timeoutMs: 60_000 });
    this.#adminToken = (await readFile(join(this.stateDir, "admin-token"), "utf8")).trim();
  }

  /** Stops the server in order, as an operator does; resolves with its exit code. Twice is fine. */
  async stop(): Promise<number | null> {
    return this.#end("SIGTERM");
  }

  /** Ends the server as a crash does: its services run on. */
  async crash(): Promise<void> {
    await this.#end("SIGKILL");
  }

  /** Stops the server and removes everything that it left. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await endInstances(this.stateDir);
    await rm(this.#root, { recursive: true, force: true, maxRetries: 5 });
  }

  async #end(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.#child;
    if (child === undefined) return null;
    this.#child = undefined;
    this.#addresses = undefined;
    if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
    const ended = once(child, "close");
    child.kill(signal);
    await ended;
    return child.exitCode;
  }

  #arguments(): string[] {
    const proxy = this.#options.proxy === "bundled" ? `127.0.0.1:${this.#proxyPort}` : "off";
    const flags = {
      "state-dir": this.stateDir,
      listen: "127.0.0.1:0",
      "grpc-listen": "127.0.0.1:0",
      "proxy-listen": proxy,
      node: "test",
      drain: "0",
      "log-format": "json",
      ...this.#options.flags,
    };
    const named = Object.entries(flags).map(([name, value]) => `--${name}=${value}`);
    return this.#options.keepServices === true ? named : [...named, "--stop-services"];
  }

  async #readAddresses(child: ChildProcess): Promise<TestAddresses | undefined> {
    if (child.exitCode !== null) throw new Error(`the server ended with ${child.exitCode}:\n${this.#log}`);
    const text = await readFile(join(this.stateDir, "server.json"), "utf8").catch(() => undefined);
    if (text === undefined) return undefined;
    const left = JSON.parse(text) as { pid: number; addresses: TestAddresses };
    // A server that crashed left its file behind.
    return left.pid === child.pid ? left.addresses : undefined;
  }
}

/** A port of this host that nobody listens on now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("the server had no port");
  return address.port;
}
