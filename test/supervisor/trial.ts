import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Event } from "../../src/domain/event.ts";
import type { FailPoint } from "../../src/supervisor/fail-point.ts";
import { eventually } from "../support/eventually.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";
import { Plane, type Wanted } from "./plane.ts";
import { isRunning, StateDirectory } from "./state-directory.ts";

const planeProcess = new URL("../fixtures/plane-process.ts", import.meta.url).pathname;
const witness = new URL("../fixtures/witness.sh", import.meta.url).pathname;

/** What a witness wrote of one instance. */
export interface Life {
  readonly instanceId: string;
  readonly pid: number;
  /** The code it ended with by itself; undefined: it did not say. */
  readonly code: number | undefined;
}

/**
 * A supervisor in a process of its own, to be killed and started again, with an observer outside of it: every program that it runs holds the lock of
 * its service and writes down its start and its end.
 */
export class Trial {
  readonly directory = new StateDirectory();
  /** Registers and reads; it does not supervise. */
  readonly desk: Plane;
  /** What the test killed, by pid. */
  readonly killed = new Set<number>();
  readonly #database: TestDatabase;
  #process: ChildProcess | undefined;
  #errors = "";

  private constructor(database: TestDatabase) {
    this.#database = database;
    this.desk = new Plane({ connection: database.connection, stateDir: this.directory.path });
    mkdirSync(join(this.directory.path, "lives"));
  }

  static async open(): Promise<Trial> {
    const trial = new Trial(await createTestDatabase());
    await trial.desk.store.start();
    return trial;
  }

  async close(): Promise<void> {
    await this.killSupervisor();
    await this.directory.clear();
    await this.desk.store.stop();
    await this.#database.drop();
  }

  get isSupervised(): boolean {
    return this.#process !== undefined && this.#process.exitCode === null && this.#process.signalCode === null;
  }

  /** Starts a supervisor on what the last one left; with a fail-point it may be dead before it is ready. */
  async startSupervisor(o: { failPoint?: FailPoint; failAtTime?: number } = {}): Promise<void> {
    if (this.isSupervised) return;
    const order = { connection: this.#database.connection, stateDir: this.directory.path, ...o };
    const child = spawn(process.execPath, [planeProcess, JSON.stringify(order)], { stdio: ["pipe", "pipe", "pipe"] });
    this.#process = child;
    child.stdin.on("error", () => undefined);
    child.stderr.on("data", (data: Buffer) => (this.#errors += data.toString()));
    const [word] = await Promise.race([once(child.stdout, "data"), once(child, "close")]);
    if (String(word) !== "ready\n" && o.failPoint === undefined) throw new Error(`it did not start: ${this.#errors}`);
  }

  async killSupervisor(): Promise<void> {
    const child = this.#process;
    if (child === undefined || !this.isSupervised) return;
    child.kill("SIGKILL");
    await this.supervisorEnded();
  }

  /** Resolves when it has ended, by whatever hand. */
  async supervisorEnded(): Promise<void> {
    const child = this.#process;
    if (child !== undefined && this.isSupervised) await once(child, "close");
    if (this.#process === child) this.#process = undefined;
  }

  /** Puts the wall clock of the supervisor forward or back. */
  jump(ms: number): void {
    this.#process?.stdin?.write(`jump ${ms}\n`);
  }

  /** The command of a witness; with a code it ends with it at once. */
  command(name: string, code?: number): string[] {
    const file = (kind: string) => join(this.directory.path, "lives", `${name}.${kind}`);
    const locked = ["/usr/bin/flock", "--nonblock", "--conflict-exit-code", "99", "--no-fork", file("lock")];
    return [...locked, "/bin/sh", witness, file("log"), ...(code === undefined ? [] : [String(code)])];
  }

  register(name: string, wanted: Wanted = {}, code?: number): Promise<unknown> {
    return this.desk.create(name, this.command(name, code), wanted);
  }

  /** The lives of a service's processes, oldest first. */
  lives(name: string): Life[] {
    const lines = this.#log(name).map((line) => line.split(" "));
    const ends = new Map(lines.filter(([word]) => word === "end").map(([, id, , , code]) => [id, Number(code)]));
    return lines
      .filter(([word]) => word === "start")
      .map(([, instanceId = "", pid]) => ({ instanceId, pid: Number(pid), code: ends.get(instanceId) }));
  }

  /** The pid of its process that is alive now. */
  alive(name: string): number | undefined {
    return this.lives(name)
      .map(({ pid }) => pid)
      .findLast((pid) => isRunning(pid));
  }

  /** Kills its process as a crash would. */
  crash(name: string): void {
    const pid = this.alive(name);
    if (pid === undefined) return;
    this.killed.add(pid);
    process.kill(pid, "SIGKILL");
  }

  /** Resolves when every service is as it is wished and its witness agrees. */
  async settled(names: readonly string[], timeoutMs = 30_000): Promise<void> {
    for (const name of names) {
      await eventually(
        async () => {
          const { wish, status, generation } = await this.desk.service(name);
          const alive = this.alive(name);
          const isSo =
            wish === "running"
              ? status.state === "running" && status.observedGeneration === generation && alive === status.pid
              : ["stopped", "failed", "completed"].includes(status.state) && alive === undefined;
          if (!isSo) throw new Error(await this.#tell(name, { wish, generation, status, alive }));
          return true;
        },
        { timeoutMs },
      );
    }
  }

  /** Resolves when no process of these services is alive: they were removed. */
  async gone(names: readonly string[]): Promise<void> {
    for (const name of names) await eventually(() => this.alive(name) === undefined);
  }

  /** Everything that is wrong with what was recorded, held against what the witnesses say; empty: nothing is. */
  async faults(name: string): Promise<string[]> {
    const history = await this.desk.history(name);
    const exits = history.filter(({ body }) => body.type === "instance_exited");
    const lives = this.lives(name);
    return [
      ...exits.flatMap((event) => conflict(event)),
      ...lives.flatMap((life) => this.#faultsOf(life, exits)),
      ...twice(exits.map(({ body }) => (body.type === "instance_exited" ? body.instanceId : ""))),
      ...twice(lives.map(({ instanceId }) => instanceId)),
    ];
  }

  #faultsOf({ instanceId, pid, code }: Life, exits: readonly Event[]): string[] {
    const event = exits.find(({ body }) => body.type === "instance_exited" && body.instanceId === instanceId);
    if (isRunning(pid)) return event === undefined ? [] : [`${instanceId} lives and was recorded as ended`];
    if (event?.body.type !== "instance_exited") return [`the end of ${instanceId} was lost`];
    const { exit } = event.body;
    const how = exit.reason === "exited" ? String(exit.code) : (exit.signal ?? exit.reason);
    if (code !== undefined)
      return how === String(code) ? [] : [`${instanceId} ended with ${code}, recorded was ${how}`];
    // Whoever said nothing was killed: by the test, or asked to end before it could say so.
    const isTrue = this.killed.has(pid) ? how === "SIGKILL" : exit.requested && how.startsWith("SIG");
    return isTrue ? [] : [`${instanceId} was killed, recorded was ${how}`];
  }

  /** What is to be seen of a service that is not as it should be. */
  async #tell(name: string, seen: object): Promise<string> {
    const history = (await this.desk.history(name)).slice(-20);
    const events = history.map(
      ({ revision, time, body, message }) => `${revision} ${time.toISOString()} ${body.type} ${message}`,
    );
    return [`${name}: ${JSON.stringify(seen)}`, ...events, this.#errors].join("\n");
  }

  #log(name: string): string[] {
    try {
      const text = readFileSync(join(this.directory.path, "lives", `${name}.log`), "utf8");
      return text.split("\n").filter(Boolean);
    } catch {
      return [];
    }
  }
}

function conflict({ body }: Event): string[] {
  const found = body.type === "instance_exited" && body.exit.code === 99;
  return found ? [`${body.instanceId} was started while another was alive`] : [];
}

function twice(ids: readonly string[]): string[] {
  return ids.filter((id, index) => ids.indexOf(id) !== index).map((id) => `${id} came twice`);
}
