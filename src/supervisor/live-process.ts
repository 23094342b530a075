import { setTimeout as delay, setImmediate } from "node:timers/promises";
import type { Clock } from "../domain/clock.ts";
import type { ProbeResult } from "../domain/explain.ts";
import type { Input } from "../domain/step.ts";
import type { FailPoint } from "./fail-point.ts";
import { commandPid, type InstanceHandle } from "./instance-handle.ts";
import type { Leftovers } from "./leftovers.ts";
import { aborted, pause } from "./pause.ts";
import type { CommandSetting } from "./probes/command-setting.ts";
import { processQuestion } from "./probes/questions.ts";
import { type News, type WatchPlan, watchInstance } from "./probes/watch-instance.ts";
import type { ProcessExit } from "./run-directory.ts";
import { clearInstance, type StopResult, stopInstance } from "./stop.ts";

export interface LiveProcessOptions {
  readonly leftovers: Leftovers;
  readonly clock: Clock;
  /** How commands that ask it run. Throws when nobody knows. */
  readonly setting: () => Promise<CommandSetting>;
  /** Told as soon as its command has ended, while what that had started is still to be cleared. */
  readonly foresee: (exit: ProcessExit) => void;
  /** Told whether it is ready, and how it ended or what could not be ended. */
  readonly tell: (news: Input) => void;
  readonly onFailure: (error: unknown) => void;
  readonly reach: (point: FailPoint) => void;
}

export interface StopRequest {
  /** What must be over before it is asked to end. */
  readonly waits: readonly { readonly until: Promise<void>; readonly atMostMs?: number }[];
  /** Whether it has requests that shall be finished. */
  readonly drains: boolean;
  readonly drainMs: number;
  readonly graceMs: number;
  readonly signal: NodeJS.Signals;
}

const tryAgainMs = 1_000;
const pidWaitMs = 500;
const keptResults = 10;

/** The process of one instance, from its start or adoption to its end. */
export class LiveProcess {
  readonly #handle: InstanceHandle;
  readonly #options: LiveProcessOptions;
  readonly #letGo = new AbortController();
  #watching: { readonly plan: string; readonly abort: AbortController } | undefined;
  readonly #results: ProbeResult[] = [];
  #isFollowed = false;
  #isStopping = false;
  #ending = false;

  constructor(handle: InstanceHandle, options: LiveProcessOptions) {
    this.#handle = handle;
    this.#options = options;
  }

  get handle(): InstanceHandle {
    return this.#handle;
  }

  /** The last answers of its probes, newest first. */
  get probeResults(): readonly ProbeResult[] {
    return this.#results;
  }

  /** Tells from now on whether it is ready, and its end. Called again, it goes on as the new plan says; the same plan changes nothing. */
  watch(plan: WatchPlan): void {
    if (this.#isStopping || this.#letGo.signal.aborted) return;
    if (!this.#isFollowed) this.#inBackground(this.#handle.exited.then((exit) => this.#ended(exit)));
    this.#isFollowed = true;
    const text = JSON.stringify({ ...plan, wasReady: undefined });
    if (this.#watching?.plan === text) return;
    this.#watching?.abort.abort();
    const abort = new AbortController();
    this.#watching = { plan: text, abort };
    const { clock, leftovers, setting } = this.#options;
    const { instanceId, runDir } = this.#handle;
    const tools = { instanceId, runDir, leftovers, setting };
    this.#inBackground(
      watchInstance(plan, {
        questionOf: (action) => processQuestion(action, plan, tools),
        clock,
        signal: abort.signal,
        tell: (news: News) => this.#options.tell({ ...news, instanceId }),
        note: (result) => this.#note(result),
      }),
    );
  }

  async #ended(exit: ProcessExit): Promise<void> {
    if (!this.#letGo.signal.aborted) this.#options.foresee(exit);
    // What is foreseen is set going first.
    await setImmediate();
    await this.clear();
  }

  #note(result: ProbeResult): void {
    this.#results.unshift(result);
    this.#results.splice(keptResults);
  }

  /** The pid of its command, which is forked a moment after its release; undefined if it ended before it was seen. */
  async pid(): Promise<number | undefined> {
    let ended = false;
    void this.#handle.exited.then(() => {
      ended = true;
    });
    for (const deadline = performance.now() + pidWaitMs; ; await delay(1)) {
      const pid = commandPid(this.#handle);
      if (pid !== undefined || ended || performance.now() > deadline) return pid;
    }
  }

  /** Asks it to end, and sees to it that it does. Its end is told. Asked again, what has the least to wait for counts. */
  stop(request: StopRequest): void {
    this.#isStopping = true;
    this.#watching?.abort.abort();
    this.#inBackground(this.#stop(request));
  }

  /** It has ended by itself: what it started must end too before its end is told and another begins. */
  async clear(): Promise<void> {
    await this.#end(() => clearInstance(this.#handle, this.#options.leftovers));
  }

  /** From now on nothing is told and nothing is begun; it runs on. */
  letGo(): void {
    this.#letGo.abort();
    this.#watching?.abort.abort();
  }

  async #stop({ waits, drains, drainMs, graceMs, signal }: StopRequest): Promise<void> {
    for (const { until, atMostMs } of waits) await this.#orItsEnd(until, atMostMs);
    if (drains) await this.#orItsEnd(undefined, drainMs);
    const { leftovers, reach } = this.#options;
    const onSignalled = (): void => reach("stop_signalled");
    await this.#end(() => stopInstance(this.#handle, leftovers, { graceMs, signal, onSignalled }));
  }

  /** Waits for the promise, at most `ms`, and no longer than it lives. */
  async #orItsEnd(promise: Promise<void> | undefined, ms: number | undefined): Promise<void> {
    const enough = new AbortController();
    const signal = AbortSignal.any([enough.signal, this.#letGo.signal]);
    const late = ms === undefined ? aborted(signal) : pause(this.#options.clock, ms, signal).catch(() => undefined);
    await Promise.race([late, this.#handle.exited, ...(promise === undefined ? [] : [promise])]);
    enough.abort();
  }

  async #end(work: () => Promise<StopResult>): Promise<void> {
    if (this.#ending || this.#letGo.signal.aborted) return;
    this.#ending = true;
    this.#isStopping = true;
    this.#watching?.abort.abort();
    const { tell, reach } = this.#options;
    const { instanceId } = this.#handle;
    const result = await this.#insist(work);
    reach("ended");
    // One that could not be ended may be asked again; of one that ended there is nothing more to tell.
    if (result?.stopped !== true) this.#ending = false;
    if (result === undefined) return;
    tell(
      result.stopped
        ? { kind: "exited", instanceId, exit: result.exit }
        : { kind: "stop_failed", instanceId, survivors: result.survivors },
    );
  }

  /** Tries until it works. Undefined: it was let go. */
  async #insist<T>(run: () => Promise<T>): Promise<T | undefined> {
    const { clock, onFailure } = this.#options;
    while (!this.#letGo.signal.aborted) {
      try {
        return await run();
      } catch (error) {
        onFailure(error);
        await pause(clock, tryAgainMs, this.#letGo.signal).catch(() => undefined);
      }
    }
    return undefined;
  }

  #inBackground(task: Promise<unknown>): void {
    task.catch(this.#options.onFailure);
  }
}
