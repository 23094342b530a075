import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { chmod, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { groupsBelow, removeGroup } from "../../src/supervisor/cgroup.ts";
import { currentGroup } from "../../src/supervisor/control-groups.ts";
import { eventually } from "./eventually.ts";

/** What a child must inherit to be known as one of this run, for tests that build its environment from nothing. */
export function runVariables(): Record<string, string> {
  return { TMPDIR: tmpdir() };
}

/**
 * One run of the tests and all that it makes. Its temporary directory is its own and its mark: whoever has it in the environment, on the command
 * line, as the working directory or as the place of an open file was started by this run and by no other on the machine.
 */
export class TestRun {
  readonly #directory: string;
  readonly #outer: string | undefined;

  private constructor(directory: string, outer: string | undefined) {
    this.#directory = directory;
    this.#outer = outer;
  }

  /** From now on everything temporary of this process and its children lies in a directory of the run. */
  static async begin(): Promise<TestRun> {
    const directory = await mkdtemp(join(tmpdir(), "steward-run-"));
    // Services and databases of other users go through it.
    await chmod(directory, 0o1777);
    const run = new TestRun(directory, process.env["TMPDIR"]);
    process.env["TMPDIR"] = directory;
    return run;
  }

  /** Ends what is left and removes the directory; throws if there was something, or if the caller knows of more. */
  async end(known: readonly string[]): Promise<void> {
    const nothing = () => this.#processes().length === 0;
    await eventually(nothing, { timeoutMs: 5_000 }).catch(() => undefined);
    const processes = this.#processes();
    const names = await readdir(this.#directory);
    const groups = this.#groups();
    const left = [
      ...known,
      ...processes.map(describe),
      ...names.map((name) => `directory ${name}`),
      ...groups.map((group) => `control group ${group}`),
    ];
    for (const pid of processes) end(pid);
    for (const group of groups) removeGroup(group);
    await rm(this.#directory, { recursive: true, force: true, maxRetries: 5 });
    if (this.#outer === undefined) delete process.env["TMPDIR"];
    else process.env["TMPDIR"] = this.#outer;
    if (left.length > 0) throw new Error(`the tests have left behind:\n${left.map((each) => `  ${each}`).join("\n")}`);
  }

  #processes(): number[] {
    return readdirSync("/proc")
      .map(Number)
      .filter((pid) => Number.isInteger(pid) && pid !== process.pid && !isWorker(pid) && this.#isOurs(pid));
  }

  /** They bear the path of the state directory that they were made for. */
  #groups(): string[] {
    const own = currentGroup();
    return own === undefined ? [] : groupsBelow(own).filter((group) => group.includes(basename(this.#directory)));
  }

  #isOurs(pid: number): boolean {
    if (/^State:\t[ZX]/m.test(read(pid, "status"))) return false;
    const words = `${read(pid, "environ")}\0${read(pid, "cmdline")}`;
    return words.includes(this.#directory) || placesOf(pid).some((place) => place.startsWith(this.#directory));
  }
}

/** The workers that run the test files end after the run's last look. */
function isWorker(pid: number): boolean {
  return read(pid, "status").includes(`\nPPid:\t${process.pid}\n`) && read(pid, "cmdline").includes("vitest");
}

/** Its working directory and the files that it has open. */
function placesOf(pid: number): string[] {
  return [link(pid, "cwd"), ...filesOf(pid)];
}

function filesOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((descriptor) => link(pid, `fd/${descriptor}`));
  } catch {
    return [];
  }
}

function describe(pid: number): string {
  const ports = portsOf(pid);
  const listening = ports.length === 0 ? "" : `, which listens on ${ports.join(", ")}`;
  return `process ${pid}: ${read(pid, "cmdline").replaceAll("\0", " ").trim().slice(0, 300)}${listening}`;
}

function portsOf(pid: number): number[] {
  const sockets = new Set(filesOf(pid));
  const lines = ["tcp", "tcp6"].flatMap((table) => read(pid, `net/${table}`).split("\n").slice(1));
  return lines.flatMap((line) => {
    const [, local = "", , state, , , , , , inode] = line.trim().split(/\s+/);
    const isListening = state === "0A" && sockets.has(`socket:[${inode}]`);
    return isListening ? [Number.parseInt(local.slice(local.lastIndexOf(":") + 1), 16)] : [];
  });
}

function read(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return "";
  }
}

function link(pid: number, file: string): string {
  try {
    return readlinkSync(`/proc/${pid}/${file}`);
  } catch {
    return "";
  }
}

function end(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // gone meanwhile
  }
}
