import { spawn } from "node:child_process";
import type { Writable } from "node:stream";
import { execa } from "execa";
import type { ProcessIdentity } from "../domain/status.ts";
import { stateOf } from "./process-identity.ts";

/** A process in a session of its own, reading our words from its standard input. */
export interface Spawned {
  readonly pid: number;
  readonly input: Writable;
  /** Resolves when it is gone and reaped. Does not keep the server alive. */
  readonly ended: Promise<void>;
}

export interface ToolResult {
  readonly status: number | undefined;
  readonly output: string;
  readonly errorOutput: string;
}

/** What a process of ours gets while it may still be root: nothing of a service's, nothing of the host's. */
export const fixedEnvironment: Readonly<Record<string, string>> = { LC_ALL: "C" };

/** Starts a process that outlives us, with `fixedEnvironment` and / as its directory. Throws when the system refuses. */
export function spawnDetached(file: string, args: readonly string[]): Spawned {
  // Not execa: what it keeps for each child, for as long as that lives, would be the largest part of what a service costs us.
  const child = spawn(file, args, {
    detached: true,
    env: fixedEnvironment,
    cwd: "/",
    stdio: ["pipe", "ignore", "ignore"],
  });
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  // That it could not be started is told by the missing pid, too.
  child.once("error", () => undefined);
  if (child.pid === undefined) throw new Error(`cannot start ${file}: the system refused a new process`);
  child.unref();
  // A reader that ends early is known by its end; the broken pipe adds nothing.
  child.stdin.on("error", () => undefined);
  return { pid: child.pid, input: child.stdin, ended };
}

/** Runs a small program of the system to its end, at most `timeoutMs`. Never rejects for a status other than 0. */
export async function runTool(
  file: string,
  args: readonly string[],
  { input = "", timeoutMs = 10_000 }: { input?: string; timeoutMs?: number } = {},
): Promise<ToolResult> {
  const result = await execa(file, args, {
    reject: false,
    extendEnv: false,
    env: fixedEnvironment,
    cwd: "/",
    input,
    timeout: timeoutMs,
  });
  return { status: result.exitCode, output: result.stdout, errorOutput: result.stderr };
}

/** Starts a small program in a session of its own, whose end is the caller's to bring about. `pid` is undefined when the system refuses. */
export function startTool(
  file: string,
  args: readonly string[],
  input: Uint8Array,
): { readonly pid: number | undefined; readonly result: Promise<ToolResult> } {
  const subprocess = execa(file, args, {
    detached: true,
    reject: false,
    extendEnv: false,
    env: fixedEnvironment,
    cwd: "/",
    input,
    stderr: "ignore",
  });
  const result = subprocess.then(({ exitCode, stdout }) => ({ status: exitCode, output: stdout, errorOutput: "" }));
  return { pid: subprocess.pid, result };
}

/** Signals everything in the group that the identified process leads. False: nothing was signalled, it is not there any more or not ours. */
export function signalGroup(leader: ProcessIdentity, signal: NodeJS.Signals): boolean {
  return stateOf(leader) === "alive" && send(-leader.pid, signal);
}

/** Signals the identified process only. False: nothing was signalled, it is not there any more or not ours. */
export function signalProcess(target: ProcessIdentity, signal: NodeJS.Signals): boolean {
  return stateOf(target) === "alive" && send(target.pid, signal);
}

function send(pid: number, signal: NodeJS.Signals): boolean {
  try {
    process.kill(pid, signal);
    return true;
  } catch (error) {
    if (isRefusal(error)) return false;
    throw error;
  }
}

/** Gone in the meantime, or become somebody we may not signal. */
function isRefusal(error: unknown): boolean {
  return error instanceof Error && "code" in error && (error.code === "ESRCH" || error.code === "EPERM");
}
