import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { constants, mkdirSync, openSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { execa } from "execa";
import { EventType } from "../gen/steward/v1/event_pb.ts";
import type { StewardClient } from "../src/client.ts";
import { gateScript, shimArguments } from "../src/supervisor/shim.ts";
import { figureOf, type Measure, type Round } from "./figure.ts";
import { withSteward } from "./scene.ts";

const samplesARound = 5;
/** A process that was ready for so long is started again at once. */
const forgivenAfterMs = 10_000;

/**
 * From the end of a process to the first instruction of the one that replaces it, with two transactions in between, against the same shim and
 * command started again by hand. Each process says its number on a FIFO as its first instruction.
 */
export const measureRestart: Measure = async ({ rounds }) => {
  const directory = await mkdtemp(join(tmpdir(), "steward-bench-"));
  const births = await Births.open(join(directory, "births"));
  const command = ["/bin/sh", "-c", 'echo "$1 $$" > "$2"; exec sleep 1000', "sh"];
  try {
    return await withSteward({}, async ({ client }) => {
      const names = Array.from({ length: samplesARound * rounds }, (_, index) => `b${index}`);
      const restartPolicy = { resetAfter: { seconds: 1n } };
      for (const name of names) {
        const managed = { command: [...command, name, births.path], restartPolicy };
        await client.registry.create({
          serviceId: name,
          service: { spec: { kind: { case: "managed", value: managed } } },
        });
      }
      const pids = new Map<string, number>();
      for (const name of names) pids.set(name, await births.next(name));
      await everyoneForgiven(client, names.length);
      await using byHand = new ByHand(directory, births, command);
      await byHand.start();
      const results: Round[] = [];
      for (const name of names) {
        const startedMs = performance.now();
        process.kill(pids.get(name) ?? 0, "SIGKILL");
        await births.next(name);
        const bareMs = performance.now();
        await byHand.crash();
        await byHand.start();
        results.push({ ours: bareMs - startedMs, bare: performance.now() - bareMs });
      }
      return [figureOf({ name: "crash to running again", unit: "ms", aim: { atMost: 3 } }, results)];
    });
  } finally {
    births.close();
    await rm(directory, { recursive: true, force: true });
  }
};

async function everyoneForgiven(client: StewardClient, count: number): Promise<void> {
  const ready = new Set<string>();
  for await (const update of client.watchEvents({ after: { revision: 0n }, types: [EventType.INSTANCE_READY] })) {
    if (update.kind === "events") for (const { service } of update.events) ready.add(service);
    if (ready.size === count) break;
  }
  await delay(forgivenAfterMs);
}

/** The same chain of shim and command, with nobody who records anything. */
class ByHand implements AsyncDisposable {
  readonly #directory: string;
  readonly #births: Births;
  readonly #command: readonly string[];
  #shim: ChildProcess | undefined;
  #pid = 0;
  #starts = 0;

  constructor(directory: string, births: Births, command: readonly string[]) {
    this.#directory = directory;
    this.#births = births;
    this.#command = command;
  }

  async start(): Promise<void> {
    this.#starts += 1;
    const runDir = join(this.#directory, String(this.#starts));
    mkdirSync(runDir);
    const paths = { runDir, stdoutPath: join(this.#directory, "out"), stderrPath: join(this.#directory, "err") };
    const request = { ...paths, account: undefined, limits: {}, notifyFd: undefined };
    const shim = spawn("/bin/sh", shimArguments(request, "/bin/sh"), {
      detached: true,
      stdio: ["pipe", "ignore", "ignore"],
      env: { LC_ALL: "C" },
    });
    const argv = [...this.#command, "by-hand", this.#births.path];
    const environment = new Map<string, string>();
    shim.stdin.end(gateScript({ argv, cwd: undefined, fallbackCwd: "/", environment, notifyFd: undefined }));
    this.#shim = shim;
    this.#pid = await this.#births.next("by-hand");
  }

  /** Resolves when its end is known. */
  async crash(): Promise<void> {
    if (this.#shim === undefined) return;
    const ended = once(this.#shim, "exit");
    process.kill(this.#pid, "SIGKILL");
    await ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.crash();
  }
}

/** What the processes say of themselves. */
class Births {
  readonly path: string;
  readonly #socket: Socket;
  readonly #lines: Interface;
  readonly #told = new Map<string, number[]>();
  #wake: (() => void) | undefined;

  private constructor(path: string) {
    this.path = path;
    // Open for writing too, so that it does not end with the last of them.
    const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    this.#socket = new Socket({ fd, readable: true, writable: false });
    this.#lines = createInterface({ input: this.#socket });
    this.#lines.on("line", (line) => {
      const [name = "", pid] = line.split(" ");
      this.#told.set(name, [...(this.#told.get(name) ?? []), Number(pid)]);
      this.#wake?.();
    });
  }

  static async open(path: string): Promise<Births> {
    await execa("mkfifo", [path]);
    return new Births(path);
  }

  /** The process of this name that was born next. */
  async next(name: string): Promise<number> {
    for (;;) {
      const pid = this.#told.get(name)?.shift();
      if (pid !== undefined) return pid;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  close(): void {
    this.#lines.close();
    this.#socket.destroy();
  }
}
