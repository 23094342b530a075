import { execa } from "execa";
import type { Identity } from "./embedded-identity.ts";

/**
 * The environment of every program that the embedded Postgres consists of: nothing of Steward's own.
 * They run in a directory next to lib/ and find it from there, so that no directory above needs to be open to them.
 */
export const programEnvironment: Readonly<Record<string, string>> = {
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  LC_ALL: "C",
  TZ: "UTC",
  LD_LIBRARY_PATH: "/proc/self/cwd/../lib",
};

export interface ProgramRun {
  readonly directory: string;
  readonly args: readonly string[];
  readonly input?: string;
  readonly signal?: AbortSignal;
}

/** The command line that runs `program` as `identity` and has it signalled when Steward dies. */
export function commandLine(
  identity: Identity,
  whenWeDie: "INT" | "KILL",
  program: string,
  args: readonly string[],
): [string, ...string[]] {
  const [file, ...prefix] = identity.prefix;
  // The death signal comes last: a change of user would clear it.
  return [file, ...prefix, "--pdeathsig", whenWeDie, "--", program, ...args];
}

/** Runs `program` to its end and returns what it printed. Throws an Error with its last words when it fails. */
export async function runProgram(identity: Identity, program: string, run: ProgramRun): Promise<string> {
  const [file, ...args] = commandLine(identity, "KILL", program, run.args);
  const outcome = await execa(file, args, {
    cwd: run.directory,
    env: programEnvironment,
    extendEnv: false,
    reject: false,
    input: run.input ?? "",
    ...(run.signal && { cancelSignal: run.signal }),
  });
  if (outcome.failed) throw new Error(outcome.stderr.trim() || outcome.shortMessage);
  // A stand-alone Postgres reports a failed statement and still exits with 0.
  if (/\bERROR: {2}/.test(outcome.stderr)) throw new Error(outcome.stderr.trim());
  return outcome.stdout;
}
