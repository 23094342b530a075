import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { expect } from "vitest";
import type { Limits } from "../../src/domain/limits.ts";
import type { Account } from "../../src/supervisor/account.ts";
import type { ControlGroups } from "../../src/supervisor/control-groups.ts";
import type { InstanceReference } from "../../src/supervisor/instance-handle.ts";
import { type Launched, Launcher } from "../../src/supervisor/launcher.ts";
import { Leftovers } from "../../src/supervisor/leftovers.ts";
import { ProcessTable } from "../../src/supervisor/process-table.ts";
import { Shims } from "../../src/supervisor/shims.ts";
import { signalProcess } from "../../src/supervisor/spawn.ts";
import { eventually } from "../support/eventually.ts";

export interface Work {
  readonly cwd?: string;
  readonly environment?: Readonly<Record<string, string>>;
  readonly account?: Account;
  readonly shell?: string;
  readonly shims?: Shims;
  /** Of its run directory, below the workbench's. */
  readonly name?: string;
  readonly notifyFd?: number;
  readonly limits?: Limits;
  /** Undefined: no control group. */
  readonly groups?: ControlGroups | undefined;
}

/** Real launches in a directory of their own; `clear` ends and removes whatever came of them. */
export class Workbench {
  readonly directory = mkdtempSync(join(tmpdir(), "steward-bench-"));
  readonly leftovers = new Leftovers(new ProcessTable());
  readonly #instances: InstanceReference[] = [];
  readonly #exits: Promise<unknown>[] = [];
  #launches = 0;

  launch(argv: readonly string[], work: Work = {}): Promise<Launched> {
    return this.#launch(argv, work, { PATH: "/usr/bin:/bin", ...work.environment });
  }

  launchWithoutPath(argv: readonly string[]): Promise<Launched> {
    return this.#launch(argv, {}, {});
  }

  async #launch(argv: readonly string[], work: Work, environment: Readonly<Record<string, string>>): Promise<Launched> {
    const number = this.#launches++;
    const instanceId = `${basename(this.directory)}-${number}`;
    const { name = String(number), shims = new Shims({ place: this.directory, shell: work.shell }), groups } = work;
    const place = join(this.directory, name);
    const launcher = new Launcher({ leftovers: this.leftovers, groups, cwd: "/", shims });
    const launched = await launcher.launch({
      instanceId,
      runDir: place,
      stdoutPath: `${place}.stdout`,
      stderrPath: `${place}.stderr`,
      argv,
      cwd: work.cwd,
      environment: new Map(Object.entries({ ...environment, STEWARD_INSTANCE: instanceId })),
      account: work.account,
      limits: work.limits ?? {},
      unenforced: "",
      notifyFd: work.notifyFd,
    });
    this.track(launched);
    this.#exits.push(launched.exited);
    return launched;
  }

  async run(argv: readonly string[], work: Work = {}): Promise<Launched> {
    const launched = await this.launch(argv, work);
    await launched.release();
    return launched;
  }

  track(instance: InstanceReference): void {
    this.#instances.push(instance);
  }

  output({ runDir }: InstanceReference, stream: "stdout" | "stderr" = "stdout"): string {
    return readFileSync(`${runDir}.${stream}`, "utf8");
  }

  /** `unmount` is called when nothing runs there any more. */
  async clear(unmount: () => void = () => undefined): Promise<void> {
    for (const instance of this.#instances) {
      await this.leftovers.kill(instance);
      signalProcess(instance.identity, "SIGKILL");
    }
    await Promise.all(this.#exits);
    unmount();
    for (const { runDir } of this.#instances) await this.leftovers.forget(runDir);
    rmSync(this.directory, { recursive: true, force: true });
  }
}

export const fixture = (name: string): string => new URL(`../fixtures/${name}`, import.meta.url).pathname;

/** What this very test process would pass on, because somebody handed it to us without close-on-exec. */
export const inheritedDescriptors = readdirSync("/proc/self/fd").filter(
  (number) => Number(number) > 2 && !isCloseOnExec(number),
);

/** Waits until the process behind `proc` has exactly these descriptors open: after its exec its loader still opens and closes libraries. */
export async function untilOpen(proc: string, expected: string[]): Promise<void> {
  await eventually(() => {
    const open = readdirSync(`${proc}/fd`).filter((number) => !inheritedDescriptors.includes(number));
    expect(open).toEqual(expected);
    return true;
  });
}

function isCloseOnExec(number: string): boolean {
  try {
    const flags = /flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${number}`, "utf8"))?.[1] ?? "0";
    return (Number.parseInt(flags, 8) & 0o2000000) !== 0;
  } catch {
    return true;
  }
}
