import { type ChildProcess, spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { commandLine, programEnvironment } from "./embedded-command.ts";
import type { Identity } from "./embedded-identity.ts";

export interface PostmasterWish {
  readonly identity: Identity;
  readonly postgres: string;
  readonly directory: string;
  readonly socketPath: string;
  readonly log: (line: string) => void;
}

/** One run of the Postgres server, from its spawn to its end. */
export class Postmaster {
  /** Resolves, with how it ended, as soon as the process is gone. */
  readonly ended: Promise<string>;
  readonly #child: ChildProcess;
  readonly #directory: string;
  readonly #lastLines: string[] = [];
  readonly #silent: Promise<void>;

  constructor(wish: PostmasterWish) {
    const [file, ...args] = commandLine(wish.identity, "INT", wish.postgres, settings(wish.socketPath));
    this.#directory = wish.directory;
    // Detached: an interrupt typed at Steward's terminal must not take the database away before Steward is done with it.
    const stdio: ["ignore", "ignore", "pipe"] = ["ignore", "ignore", "pipe"];
    const child = spawn(file, args, { cwd: wish.directory, env: programEnvironment, detached: true, stdio });
    this.#child = child;
    this.ended = new Promise((resolve) => {
      child.once("error", (error) => resolve(error.message));
      child.once("exit", (code, signal) => resolve(signal === null ? `exit code ${code}` : signal));
    });
    const lines = createInterface({ input: child.stderr });
    lines.on("line", (line) => this.#heard(line, wish.log));
    this.#silent = new Promise((resolve) => lines.once("close", resolve));
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Resolves when queries are accepted, after whatever recovery that takes; throws what Postgres said when it ends before. */
  async ready(): Promise<void> {
    const ended = this.ended.then((how) => ({ how }));
    while (!(await this.#isReady())) {
      const turn = await Promise.race([ended, delay(5)]);
      if (turn !== undefined) throw await this.#failure(turn.how);
    }
  }

  /** Ends it: fast shutdown (clients are disconnected, everything is written), harder when that takes too long. */
  async stop(): Promise<void> {
    for (const [signal, waitMs] of endings) {
      if (this.#child.pid !== undefined) this.#child.kill(signal);
      const patience = new AbortController();
      const late = delay(waitMs, "late", { signal: patience.signal }).catch(() => "late");
      const outcome = await Promise.race([this.ended, late]);
      patience.abort();
      if (outcome !== "late") return;
    }
    throw new Error(`Postgres (pid ${this.pid}) does not end`);
  }

  async #isReady(): Promise<boolean> {
    const lines = await readFile(join(this.#directory, "postmaster.pid"), "utf8").catch(() => "");
    const [pid, , , , , , , status] = lines.split("\n");
    return Number(pid) === this.pid && status?.trim() === "ready";
  }

  async #failure(how: string): Promise<Error> {
    // A backend that outlives it may hold the pipe open; its last lines have arrived long before.
    await Promise.race([this.#silent, delay(500)]);
    return new Error([`Postgres ended before it was ready (${how})`, ...this.#lastLines].join("\n"));
  }

  #heard(line: string, log: (line: string) => void): void {
    this.#lastLines.push(line);
    if (this.#lastLines.length > 10) this.#lastLines.shift();
    log(line);
  }
}

const endings: readonly (readonly [NodeJS.Signals, number])[] = [
  ["SIGINT", 10_000],
  ["SIGQUIT", 5_000],
  ["SIGKILL", 5_000],
];

function settings(socketPath: string): readonly string[] {
  const values = {
    listen_addresses: "",
    unix_socket_directories: socketPath,
    unix_socket_permissions: "0700",
    max_connections: "60",
    shared_buffers: "32MB",
    huge_pages: "off",
    io_method: "sync",
    // No replica ever follows this server.
    wal_level: "minimal",
    max_wal_senders: "0",
    max_logical_replication_workers: "0",
    fsync: "on",
    timezone: "UTC",
    log_timezone: "UTC",
    // Failed statements are answered to Steward, which logs them itself, without the values of rows.
    log_min_messages: "log",
    log_min_error_statement: "panic",
    log_checkpoints: "off",
    log_line_prefix: "",
  };
  return ["-D", "/proc/self/cwd", ...Object.entries(values).flatMap(([name, value]) => ["-c", `${name}=${value}`])];
}
