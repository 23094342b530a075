import { fileURLToPath } from "node:url";
import { execa } from "execa";
import type { TestSteward } from "./harness.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

export interface CommandResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The command line as a person uses it beside the server: it finds the server and its token by the state directory. */
export class CommandLine {
  readonly #steward: TestSteward;

  constructor(steward: TestSteward) {
    this.#steward = steward;
  }

  async run(...args: readonly string[]): Promise<CommandResult> {
    return this.runWith("", ...args);
  }

  /** Runs a command with the text as its standard input. */
  async runWith(input: string, ...args: readonly string[]): Promise<CommandResult> {
    const result = await execa(process.execPath, ["src/steward.ts", ...args], {
      cwd: root,
      env: { STEWARD_STATE_DIR: this.#steward.stateDir },
      reject: false,
      input,
    });
    return { exitCode: result.exitCode ?? -1, stdout: result.stdout, stderr: result.stderr };
  }

  async json<T>(...args: readonly string[]): Promise<T> {
    const { exitCode, stdout, stderr } = await this.run(...args, "-o", "json");
    if (exitCode !== 0) throw new Error(stderr);
    return JSON.parse(stdout) as T;
  }
}
