import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, constants, mkdirSync, openSync } from "node:fs";
import { Socket } from "node:net";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import { execa } from "execa";
import type { Account } from "../src/supervisor/account.ts";
import { gateScript, shimArguments, shimWords } from "../src/supervisor/shim.ts";

/** The same chain of shim, switch of users and command, with nobody who records anything. */
export class ByHand implements AsyncDisposable {
  readonly #directory: string;
  readonly #births: Births;
  readonly #name: string;
  readonly #account: Account | undefined;
  #shim: ChildProcess | undefined;
  #pid = 0;
  #starts = 0;

  constructor(
    directory: string,
    births: Births,
    { name = "by-hand", account }: { name?: string; account?: Account | undefined } = {},
  ) {
    this.#directory = directory;
    this.#births = births;
    this.#name = name;
    this.#account = account;
  }

  async start(): Promise<void> {
    this.#starts += 1;
    const runDir = join(this.#directory, `${this.#name}.${this.#starts}`);
    mkdirSync(runDir);
    const paths = { runDir, stdoutPath: join(this.#directory, "out"), stderrPath: join(this.#directory, "err") };
    const request = { ...paths, account: this.#account, limits: {}, notifyFd: undefined };
    const shim = spawn("/bin/sh", shimArguments(this.#directory), {
      detached: true,
      stdio: ["pipe", "ignore", "ignore"],
      env: { LC_ALL: "C" },
    });
    const argv = this.#births.command(this.#name);
    const environment = new Map<string, string>();
    shim.stdin.write(shimWords(request, "/bin/sh"));
    shim.stdin.end(gateScript({ argv, cwd: undefined, fallbackCwd: "/", environment, notifyFd: undefined }));
    this.#shim = shim;
    this.#pid = await this.#births.next(this.#name);
  }

  /** Resolves when its end is known. */
  async end(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    const shim = this.#shim;
    if (shim === undefined) return;
    this.#shim = undefined;
    const ended = once(shim, "exit");
    process.kill(this.#pid, signal);
    await ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
  }
}

/** What the processes say of themselves. */
export class Births {
  readonly path: string;
  readonly #socket: Socket;
  readonly #lines: Interface;
  readonly #told = new Map<string, number[]>();
  readonly #waiting = new Map<string, (pid: number) => void>();

  private constructor(path: string) {
    this.path = path;
    // Open for writing too, so that it does not end with the last of them.
    const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    this.#socket = new Socket({ fd, readable: true, writable: false });
    this.#lines = createInterface({ input: this.#socket });
    this.#lines.on("line", (line) => {
      const [name = "", pid] = line.split(" ");
      const resolve = this.#waiting.get(name);
      this.#waiting.delete(name);
      if (resolve === undefined) this.#told.set(name, [...(this.#told.get(name) ?? []), Number(pid)]);
      else resolve(Number(pid));
    });
  }

  static async open(path: string): Promise<Births> {
    await execa("mkfifo", [path]);
    chmodSync(path, 0o666);
    return new Births(path);
  }

  /** A command that says its name and number here as its first instruction, and then sleeps. */
  command(name: string): string[] {
    return ["/bin/sh", "-c", 'echo "$1 $$" > "$2"; exec sleep 1000', "sh", name, this.path];
  }

  /** The process of this name that was born next. */
  next(name: string): Promise<number> {
    const pid = this.#told.get(name)?.shift();
    if (pid !== undefined) return Promise.resolve(pid);
    return new Promise((resolve) => this.#waiting.set(name, resolve));
  }

  close(): void {
    this.#lines.close();
    this.#socket.destroy();
  }
}
