import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { createStewardClient, type StewardClient } from "../src/client.ts";
import { TestSteward } from "../test/end-to-end/harness.ts";

/** A Steward as users run it, in a process of its own, with a client. */
export interface Scene {
  readonly steward: TestSteward;
  readonly client: StewardClient;
}

export async function withSteward<T>(
  flags: Readonly<Record<string, string>>,
  use: (scene: Scene) => Promise<T>,
  environment: Readonly<Record<string, string>> = {},
): Promise<T> {
  const command = [fileURLToPath(new URL("../bin/steward", import.meta.url))] as const;
  await using steward = await TestSteward.start({ command, flags: { "log-level": "warn", ...flags }, environment });
  using client = connect(steward);
  return await use({ steward, client });
}

export function connect({ addresses, adminToken }: TestSteward): StewardClient {
  return createStewardClient({ address: addresses.grpc, token: adminToken, protocol: "grpc" });
}

/** One of the bare programs, in a process of its own; it says on which ports it listens. */
export class BareProgram implements AsyncDisposable {
  readonly ports: readonly number[];
  readonly #process: ChildProcess;

  private constructor(process: ChildProcess, ports: readonly number[]) {
    this.#process = process;
    this.ports = ports;
  }

  static async start(name: "bare-grpc" | "bare-connect" | "bare-watch", ...args: string[]): Promise<BareProgram> {
    const child = fork(new URL(`./programs/${name}.ts`, import.meta.url), args);
    const [ports] = (await once(child, "message")) as [number[]];
    return new BareProgram(child, ports);
  }

  get pid(): number {
    if (this.#process.pid === undefined) throw new Error("the program does not run");
    return this.#process.pid;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.exitCode !== null) return;
    this.#process.kill();
    await once(this.#process, "exit");
  }
}

/** How much CPU a process has used, its threads included. */
export async function cpuMsOf(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  // utime and stime, in hundredths of a second.
  return (Number(fields[11]) + Number(fields[12])) * 10;
}
