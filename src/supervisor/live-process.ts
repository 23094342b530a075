import { setTimeout as delay } from "node:timers/promises";
import type { Clock } from "../domain/clock.ts";
import type { Input } from "../domain/lifecycle.ts";
import { commandPid, type InstanceHandle } from "./instance-handle.ts";
import type { Leftovers } from "./leftovers.ts";
import { pause } from "./pause.ts";
import { type ReadinessWatch, watchReadiness } from "./readiness-watch.ts";
import { stopInstance } from "./stop.ts";

export interface LiveProcessOptions {
  readonly leftovers: Leftovers;
  readonly clock: Clock;
  /** Told whether it is ready, and how it ended or what could not be ended. */
  readonly tell: (news: Input) => void;
  readonly onFailure: (error: unknown) => void;
}

export interface StopRequest {
  /** Resolves when no new request reaches it; undefined: it has no route. */
  readonly routeOut: Promise<void> | undefined;
  /** How long it goes on after that, for the requests that are under way. */
  readonly drainMs: number;
  readonly graceMs: number;
}

const routeWaitMs = 5_000;
const tryAgainMs = 1_000;
const pidWaitMs = 500;

/** The process of one instance, from its start or adoption to its end. */
export class LiveProcess {
  readonly #handle: InstanceHandle;
  readonly #options: LiveProcessOptions;
  readonly #watching = new AbortController();
  readonly #letGo = new AbortController();
  #ending = false;
  #ended = false;

  constructor(handle: InstanceHandle, options: LiveProcessOptions) {
    this.#handle = handle;
    this.#options = options;
  }

  /** Tells from now on whether it is ready, and its end. */
  watch(readiness: Omit<ReadinessWatch, "clock" | "signal" | "tell">): void {
    const { clock, tell } = this.#options;
    const { signal } = this.#watching;
    this.#inBackground(watchReadiness({ ...readiness, clock, signal, tell }));
    this.#inBackground(this.#handle.exited.then(() => this.clear()));
  }

  /** The pid of its command, which is forked a moment after its release; undefined if it ended before it was seen. */
  async pid(): Promise<number | undefined> {
    let ended = false;
    void this.#handle.exited.then(() => {
      ended = true;
    });
    for (const deadline = performance.now() + pidWaitMs; ; await delay(1)) {
      const pid = await commandPid(this.#handle);
      if (pid !== undefined || ended || performance.now() > deadline) return pid;
    }
  }

  /** Asks it to end, and sees to it that it does. Its end is told. */
  stop(request: StopRequest): void {
    this.#watching.abort();
    this.#inBackground(this.#stop(request));
  }

  /** It has ended by itself: what it started must end too before its end is told and another begins. */
  async clear(): Promise<void> {
    await this.#end(0);
  }

  /** From now on nothing is told and nothing is begun; it runs on. */
  letGo(): void {
    this.#letGo.abort();
    this.#watching.abort();
  }

  async #stop({ routeOut, drainMs, graceMs }: StopRequest): Promise<void> {
    if (routeOut !== undefined) {
      await this.#orItsEnd(routeOut, routeWaitMs);
      await this.#orItsEnd(undefined, drainMs);
    }
    await this.#end(graceMs);
  }

  /** Waits for the promise, at most `ms`, and no longer than it lives. */
  async #orItsEnd(promise: Promise<void> | undefined, ms: number): Promise<void> {
    const enough = new AbortController();
    const signal = AbortSignal.any([enough.signal, this.#letGo.signal]);
    const late = pause(this.#options.clock, ms, signal).catch(() => undefined);
    await Promise.race([late, this.#handle.exited, ...(promise === undefined ? [] : [promise])]);
    enough.abort();
  }

  async #end(graceMs: number): Promise<void> {
    if (this.#ending || this.#ended || this.#letGo.signal.aborted) return;
    this.#ending = true;
    this.#watching.abort();
    const { leftovers, tell } = this.#options;
    const result = await this.#insist(() => stopInstance(this.#handle, leftovers, { graceMs }));
    this.#ending = false;
    if (result === undefined) return;
    tell(result.stopped ? { kind: "exited", exit: result.exit } : { kind: "stop_failed", survivors: result.survivors });
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
