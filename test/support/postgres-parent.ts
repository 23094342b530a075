import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { EmbeddedPostgresOptions } from "../../src/store/embedded-postgres.ts";

/** A started server, or why it did not start. */
export type ParentReport = { readonly pid: number; readonly url: string } | { readonly error: string };

const program = new URL("../fixtures/postgres-parent.ts", import.meta.url).pathname;

/** A process of its own that has an embedded Postgres. */
export class PostgresParent {
  readonly process: ChildProcess;
  readonly #report: Promise<ParentReport>;

  /** `as` is a command line in front of node's, to run it as somebody else. */
  constructor(options: Omit<EmbeddedPostgresOptions, "log">, as: readonly string[] = []) {
    const [file, ...args] = [...as, process.execPath, program, JSON.stringify(options)];
    const child = spawn(file, args, { stdio: ["pipe", "pipe", "ignore"] });
    this.process = child;
    this.#report = readReport(createInterface({ input: child.stdout }));
  }

  /** Resolves when it is ready; throws why it did not start. */
  async started(): Promise<{ readonly pid: number; readonly url: string }> {
    const report = await this.#report;
    if ("error" in report) throw new Error(report.error);
    return report;
  }

  /** Ends it without any warning. */
  async kill(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const gone = once(this.process, "exit");
    this.process.kill("SIGKILL");
    await gone;
  }
}

async function readReport(lines: AsyncIterable<string>): Promise<ParentReport> {
  for await (const line of lines) return JSON.parse(line) as ParentReport;
  return { error: "it ended without a word" };
}
