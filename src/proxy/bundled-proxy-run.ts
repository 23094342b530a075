import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { stripVTControlCharacters } from "node:util";

export interface ProxyRunWish {
  readonly command: readonly [string, ...string[]];
  readonly token: string;
  readonly onLine: (line: string) => void;
}

/** One run of the bundled proxy, from its spawn to its end. */
export class ProxyRun {
  /** Resolves, with how it ended, as soon as the process is gone. */
  readonly ended: Promise<string>;
  /** Resolves, with what it said, when it cannot listen: it keeps running then, of no use. */
  readonly deaf: Promise<string>;
  readonly #child: ChildProcess;
  #isEnded = false;

  constructor({ command, token, onLine }: ProxyRunWish) {
    const [file, ...args] = command;
    // Detached: an interrupt typed at the terminal must not take the proxy away while services are still being drained.
    const env = { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", CONFIGPROXY_AUTH_TOKEN: token };
    const child = spawn(file, args, { cwd: "/", env, detached: true, stdio: ["pipe", "pipe", "pipe"] });
    this.#child = child;
    child.stdin.on("error", () => {});
    this.ended = new Promise((resolve) => {
      child.once("error", (error) => resolve(error.message));
      child.once("exit", (code, signal) => resolve(signal ?? `exit code ${code}`));
    });
    void this.ended.then(() => (this.#isEnded = true));
    const { promise, resolve } = Promise.withResolvers<string>();
    this.deaf = promise;
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on("line", (raw) => {
        const line = stripVTControlCharacters(raw);
        if (/Uncaught Exception: listen /.test(line)) resolve(line.replace(/^.*Uncaught Exception: /, ""));
        onLine(line);
      });
    }
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Ends it: it drains nothing when asked to end, so there is little to wait for. */
  async stop(): Promise<void> {
    if (this.#isEnded) return;
    this.#child.kill("SIGTERM");
    const patience = setTimeout(() => this.#child.kill("SIGKILL"), 2_000);
    await this.ended;
    clearTimeout(patience);
  }
}
