import { setImmediate } from "node:timers/promises";
import { AppError } from "../domain/errors.ts";
import { step } from "../domain/lifecycle.ts";
import { type ManagedService, publicPrefix } from "../domain/service.ts";
import { picksPort } from "../domain/service-url.ts";
import {
  type Instance,
  type InstanceRole,
  liveStates,
  type ServiceState,
  type ServiceStatus,
} from "../domain/status.ts";
import type { Effect, Input, Step, Want } from "../domain/step.ts";
import { inherit } from "./inheritance.ts";
import type { InstanceHandle } from "./instance-handle.ts";
import { rowsAfter } from "./instance-rows.ts";
import { lost } from "./leftovers.ts";
import { LiveProcess } from "./live-process.ts";
import { pause, settlesWithin } from "./pause.ts";
import type { CommandSetting } from "./probes/command-setting.ts";
import { type ProcessExit, spawnFailed } from "./run-directory.ts";
import type { Fact, RunnerTools } from "./runner-tools.ts";
import { Start } from "./start.ts";

const tryAgainMs = 1_000;
const routeOutMs = 5_000;
/** How long what happened may wait to be written together with the start that follows. */
const soonMs = 20;

/**
 * Makes the process of one managed service match its wish. It feeds the state machine with what happens and carries out what it asks for, one
 * thing after another; the wish is read anew at each step. The intent to start is durable before anything is forked.
 */
export class Runner {
  readonly #tools: RunnerTools;
  readonly #stopping = new AbortController();
  readonly #letGo = Promise.withResolvers<never>();
  #service: ManagedService;
  #status: ServiceStatus;
  /** As they are recorded, until their end is. */
  readonly #instances = new Map<string, Instance>();
  readonly #processes = new Map<string, LiveProcess>();
  #inputs: Input[] = [];
  #working: Promise<void> | undefined;
  #cancelWake: (() => void) | undefined;
  /** Whether it may start a process: asked of the node's budget, which may let it wait. */
  #turn: "none" | "asked" | "given" = "none";
  #routeOut = Promise.withResolvers<void>();
  #routeSwitched: { readonly url: string | undefined; readonly resolve: () => void } | undefined;
  #news: (() => void) | undefined;
  /** A start that is likely to be asked for. */
  #ahead: Start | undefined;
  #shuttingDown: PromiseWithResolvers<void> | undefined;
  #atRest: PromiseWithResolvers<void> | undefined;

  constructor(service: ManagedService, tools: RunnerTools) {
    this.#service = service;
    this.#status = service.status;
    this.#tools = tools;
    this.#letGo.promise.catch(() => undefined);
  }

  /** Whether it runs and is on its way to an end for good: those it depends on are to wait for it. */
  get isEnding(): boolean {
    const isUnwanted = this.#service.wish !== "running" || this.#shuttingDown !== undefined;
    return isUnwanted && liveStates.has(this.#status.state) && this.#status.state !== "stop_failed";
  }

  get state(): ServiceState {
    return this.#status.state;
  }

  /** A process of the service, the current one unless it is named; undefined: there is none. */
  find(instanceId: string | undefined): LiveProcess | undefined {
    return this.#processes.get(instanceId ?? this.#status.instanceId ?? "");
  }

  /** Takes over what the last server left, if it left something, and begins. */
  async start(live: readonly Instance[]): Promise<void> {
    const { instanceId, startTime, replacement, retiring, state } = this.#status;
    for (const instance of live) await this.#takeOver(instance);
    const current = liveStates.has(state) && startTime !== undefined ? [instanceId] : [];
    for (const id of [...current, replacement?.instanceId, retiring?.instanceId]) {
      if (id === undefined || this.#instances.has(id)) continue;
      this.post({ kind: "exited", instanceId: id, exit: lost("no record of its process is left") });
    }
    this.post({ kind: "look" });
  }

  /** The service as the log tells it now. Only the newest wish counts. */
  update(service: ManagedService): void {
    if (service.revision < this.#service.revision) return;
    const before = this.#service;
    this.#service = service;
    if (service.route === undefined) this.#routeOut.resolve();
    if (leadsTo(service, this.#routeSwitched?.url)) this.#routeSwitched?.resolve();
    if (before.version !== service.version) this.#watchAnew();
    this.#news?.();
    this.post({ kind: "look" });
  }

  /** Ends the process although it is wished running; the next server starts it again. Resolves when it is gone or cannot be ended. */
  async shutDown(): Promise<void> {
    if (this.#stopping.signal.aborted) return;
    this.#shuttingDown ??= Promise.withResolvers();
    this.post({ kind: "look" });
    await this.#shuttingDown.promise;
  }

  /** Resolves when it has ended, cannot be ended, or is let go. */
  whenAtRest(): Promise<void> {
    if (!this.isEnding) return Promise.resolve();
    this.#atRest ??= Promise.withResolvers();
    return this.#atRest.promise;
  }

  /** Lets go; the process runs on. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#letGo.reject(this.#stopping.signal.reason);
    this.#cancelWake?.();
    for (const process of this.#processes.values()) process.letGo();
    this.#shuttingDown?.resolve();
    this.#atRest?.resolve();
    await this.#working;
    await this.#ahead?.abandon();
  }

  /** The service is gone, and with it what its instances have left. */
  async forget(): Promise<void> {
    for (const instanceId of this.#instances.keys()) await this.#forget(instanceId);
  }

  post(input: Input): void {
    if (this.#stopping.signal.aborted) return;
    this.#inputs.push(input);
    this.#working ??= this.#work();
  }

  async #work(): Promise<void> {
    await Promise.resolve();
    for (let input = this.#inputs[0]; input !== undefined; input = this.#inputs[0]) {
      // What happened is not forgotten because it could not be written: the same again, a little later.
      if (await this.#attempt(input)) this.#inputs.shift();
      if (this.#stopping.signal.aborted) break;
    }
    this.#working = undefined;
  }

  async #attempt(input: Input): Promise<boolean> {
    const { signal } = this.#stopping;
    const service = this.#service;
    try {
      await this.#take(input);
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      if (isOutdated(error)) return this.#untilNewer(service);
      this.#tools.onFailure(error, this.#service.name);
      await pause(this.#tools.clock, tryAgainMs, signal).catch(() => undefined);
      return false;
    }
  }

  /** The service has changed and the log has not told of it yet: what happened is judged by what is wanted now. */
  async #untilNewer(than: ManagedService): Promise<false> {
    if (this.#service !== than) return false;
    const news = new Promise<void>((resolve) => {
      this.#news = resolve;
    });
    const late = pause(this.#tools.clock, tryAgainMs, this.#stopping.signal).catch(() => undefined);
    await Promise.race([news, late]);
    return false;
  }

  async #take(input: Input): Promise<void> {
    const wasRouted = this.#service.route !== undefined;
    const change = this.#changeBy(input);
    const start = await this.#startFor(change);
    // What leads to a start that happens at once is written together with its intent.
    const goesAlong = change.effects.length === 1 && start !== undefined && (await settlesWithin(start.plan, soonMs));
    if (!goesAlong) await this.#recordBefore(start, change);
    for (const effect of change.effects) this.#carryOut(effect, wasRouted);
    if (start !== undefined) await this.#tryToLaunch(start, goesAlong ? change : undefined);
    if (!liveStates.has(this.#status.state) || this.#status.state === "stop_failed") {
      this.#shuttingDown?.resolve();
      this.#atRest?.resolve();
      this.#atRest = undefined;
    }
  }

  #changeBy(input: Input): Change {
    const next = this.#step(this.#status, input);
    const instances = rowsAfter(input, next.status, this.#instances, this.#tools.clock.now());
    // What follows an end is up to the spec.
    const guard = input.kind === "exited" ? { version: this.#service.version } : {};
    return { ...next, instances, guard, cause: input };
  }

  #step(status: ServiceStatus, input: Input): Step {
    const { clock, random } = this.#tools;
    return step(status, input, this.#want(), { now: clock.now(), random: random() });
  }

  #want(): Want {
    const { wish, generation, resets, spec } = this.#service;
    const ends = this.#shuttingDown !== undefined && liveStates.has(this.#status.state) && wish === "running";
    const waitingFor = this.#tools.unmet(this.#service);
    return { wish: ends ? "stopped" : wish, generation, resets, spec: spec.kind, waitingFor };
  }

  async #record({ cause, effects, ...fact }: Change): Promise<void> {
    const { status, events, instances } = fact;
    if (events.length > 0) await this.#write(fact);
    this.#status = status;
    // A change that no event tells is written with the next one that does.
    if (events.length === 0) return;
    for (const instance of instances) {
      if (instance.state !== "ended") this.#instances.set(instance.id, instance);
      else this.#forget(instance.id).catch((error: unknown) => this.#tools.onFailure(error, this.#service.name));
    }
    this.#reached(cause, effects);
  }

  #reached(cause: Input, effects: readonly Effect[]): void {
    const { reach } = this.#tools;
    if (cause.kind === "launched") reach("start_recorded");
    if (cause.kind === "exited") reach("exit_recorded");
    if (effects.some((effect) => effect.kind === "retire")) reach("promoted");
    if (effects.some((effect) => effect.kind === "stop")) reach("stop_recorded");
  }

  /** Durable, or we let go: then the next server finds out by itself. */
  async #write(fact: Omit<Fact, "serviceUid">): Promise<void> {
    const written = this.#tools.facts.record({ serviceUid: this.#service.uid, ...fact });
    await Promise.race([written, this.#letGo.promise]);
  }

  /** Its end is durable, so its own record of it is needed no more. */
  async #forget(instanceId: string): Promise<void> {
    const { host, leftovers } = this.#tools;
    this.#instances.delete(instanceId);
    this.#processes.delete(instanceId);
    host.releasePort(instanceId);
    // A successor that waits at its gate goes first.
    await setImmediate();
    await leftovers.forget(host.runDir(instanceId));
  }

  #carryOut(effect: Effect, wasRouted: boolean): void {
    switch (effect.kind) {
      case "launch":
        return this.#waitForTurn();
      case "stop":
        return this.#beginStop(effect.instanceId, effect.routeFirst && wasRouted);
      case "retire":
        return this.#retire(effect.instanceId);
      case "wake":
        return this.#wakeAt(effect.at);
    }
  }

  #wakeAt(at: Date): void {
    const { clock } = this.#tools;
    this.#cancelWake?.();
    const delayMs = Math.max(0, at.getTime() - clock.now().getTime());
    this.#cancelWake = clock.after(delayMs, () => this.post({ kind: "due" }));
  }

  #asksForStart({ effects }: Step): boolean {
    return effects.some(({ kind }) => kind === "launch") && this.#hasTurn();
  }

  #hasTurn(): boolean {
    if (this.#shuttingDown !== undefined) return false;
    if (this.#turn === "none" && this.#tools.budget.takeAtOnce()) this.#turn = "given";
    return this.#turn === "given";
  }

  /** A start waits for its turn without holding up anything: a stop that comes meanwhile wins. */
  #waitForTurn(): void {
    if (this.#turn !== "none" || this.#shuttingDown !== undefined) return;
    this.#turn = "asked";
    void this.#tools.budget
      .take(() => this.#failures())
      .then(() => {
        this.#turn = "given";
        this.post({ kind: "due" });
      });
  }

  /** In a row, as its next start sees it: what a client asks for is a new beginning. */
  #failures(): number {
    const { observedGeneration, failures } = this.#status;
    return this.#service.generation > observedGeneration ? 0 : failures;
  }

  #beginStop(instanceId: string, isRouted: boolean): void {
    this.#routeOut = Promise.withResolvers();
    if (this.#service.route === undefined) this.#routeOut.resolve();
    const isForGood = this.#want().wish !== "running";
    this.#processes.get(instanceId)?.stop({
      ...this.#stopRules(),
      waits: [
        ...(isForGood ? [{ until: this.#tools.dependentsGone(this.#service) }] : []),
        ...(isRouted ? [{ until: this.#routeOut.promise, atMostMs: routeOutMs }] : []),
      ],
      drains: isRouted,
    });
  }

  /** An instance that was taken over from goes on until the route is known to lead elsewhere, however long that takes. */
  #retire(instanceId: string): void {
    const { promise, resolve } = Promise.withResolvers<void>();
    const { url } = this.#status;
    this.#routeSwitched = { url, resolve };
    if (!this.#tools.routes || leadsTo(this.#service, url)) resolve();
    this.#processes.get(instanceId)?.stop({
      ...this.#stopRules(),
      waits: [{ until: promise.then(() => this.#tools.reach("retiring")) }],
      drains: true,
    });
  }

  #stopRules(): { drainMs: number; graceMs: number; signal: NodeJS.Signals } {
    const { drainMs = this.#tools.drainMs, stopGraceMs, stopSignal } = this.#service.spec.kind;
    return { drainMs, graceMs: stopGraceMs, signal: stopSignal };
  }

  /**
   * Its command has ended and what it had started is being cleared. Where that leads to a new start at once, the successor goes to the gate meanwhile; but a
   * port is not picked before it is sure to be free.
   */
  #foresee(instanceId: string, exit: ProcessExit): void {
    if (this.#stopping.signal.aborted || this.#ahead !== undefined || picksPort(this.#service.spec.url)) return;
    if (this.#asksForStart(this.#step(this.#status, { kind: "exited", instanceId, exit }))) this.#ahead = this.#begin();
  }

  /** The start that a change asks for, if its turn has come. One that was foreseen and does not come is given up. */
  async #startFor(change: Change): Promise<Start | undefined> {
    const foreseen = this.#ahead;
    const isAsked = this.#asksForStart(change);
    if (foreseen !== undefined && (isAsked || isEnd(change.cause))) {
      this.#ahead = undefined;
      if (isAsked && foreseen.isOf(this.#service)) return foreseen;
      await foreseen.abandon();
    }
    if (!isAsked) return undefined;
    for (const { id, state } of change.instances) if (state === "ended") this.#tools.host.releasePort(id);
    return this.#begin();
  }

  #begin(): Start {
    return new Start(this.#service, this.#status.url, this.#tools);
  }

  /** What happened does not wait for a start that takes its time. */
  async #recordBefore(start: Start | undefined, change: Change): Promise<void> {
    try {
      await this.#record(change);
    } catch (error) {
      await start?.abandon();
      throw error;
    }
  }

  /** `before` is what led to the start and is not recorded yet. */
  async #tryToLaunch(start: Start, before: Change | undefined): Promise<void> {
    try {
      await this.#launch(start, before);
    } catch (error) {
      if (this.#stopping.signal.aborted) return;
      if (before !== undefined || isOutdated(error)) throw error;
      const { onFailure, clock } = this.#tools;
      onFailure(error, this.#service.name);
      this.#wakeAt(new Date(clock.now().getTime() + tryAgainMs));
    }
  }

  async #launch(start: Start, before: Change = this.#unchanged()): Promise<void> {
    const { service, instanceId } = start;
    const { url, unenforced, token } = await start.plan;
    // The wish has changed meanwhile; the turn is kept for the new one.
    if (this.#service.generation !== service.generation || this.#service.wish !== service.wish) {
      await start.abandon();
      return this.#record(before);
    }
    const intent = this.#step(before.status, { kind: "launching", instanceId, url, unenforced });
    const role = intent.status.replacement?.instanceId === instanceId ? "replacement" : "current";
    const instance = this.#newInstance(service, instanceId, role);
    await this.#recordBefore(start, {
      ...intent,
      events: [...before.events, ...intent.events],
      instances: [...before.instances, instance],
      cause: before.cause,
      guard: { ...before.guard, generation: service.generation, wish: "running" },
      ...(token === undefined ? {} : { instanceToken: token }),
    });
    this.#turn = "none";
    this.#cancelWake?.();
    this.#tools.reach("intent_recorded");
    await this.#letRun(instance, start);
  }

  #unchanged(): Change {
    return { status: this.#status, events: [], effects: [], instances: [], guard: {}, cause: { kind: "look" } };
  }

  #newInstance(service: ManagedService, id: string, role: InstanceRole): Instance {
    return {
      id,
      service: service.name,
      serviceUid: service.uid,
      generation: service.generation,
      node: this.#tools.node,
      role,
      state: "created",
      process: undefined,
      pid: undefined,
      createTime: this.#tools.clock.now(),
      startTime: undefined,
      readyTime: undefined,
      exit: undefined,
    };
  }

  /** Its intent is durable, and who waits at the gate is noted: now the command may run. */
  async #letRun(instance: Instance, start: Start): Promise<void> {
    const { reach, clock } = this.#tools;
    const waiting = await start.gate;
    if (waiting instanceof Error) {
      return this.post({ kind: "exited", instanceId: instance.id, exit: spawnFailed(waiting.message, clock.now()) });
    }
    const { launched, request } = waiting;
    this.#instances.set(instance.id, { ...instance, process: launched.identity });
    await launched.release();
    reach("released");
    const { environment, cwd, account } = request;
    await this.#follow(launched, "launched", { environment, cwd, account });
  }

  async #takeOver(live: Instance): Promise<void> {
    const { host, leftovers, clock, reach } = this.#tools;
    this.#instances.set(live.id, live);
    host.claimPort(live.id, picksPort(this.#service.spec.url) ? this.#urlOf(live.id) : undefined);
    const found = await inherit(live, host.runDir(live.id), { leftovers, now: () => clock.now() });
    reach("adopting");
    switch (found.kind) {
      case "never_ran":
        return this.post({ kind: "never_ran", instanceId: live.id, exit: found.exit });
      case "gone":
        return this.#hold(found.handle).clear();
      case "alive":
        this.#instances.set(live.id, { ...live, process: found.handle.identity });
        await host.keepOutput(this.#service.uid);
        await this.#follow(found.handle, "adopted");
        // A stop that the last server had begun is begun again.
        if (
          this.#status.instanceId === live.id &&
          (this.#status.state === "stopping" || this.#status.state === "stop_failed")
        ) {
          this.#beginStop(live.id, false);
        }
    }
  }

  #urlOf(instanceId: string): string | undefined {
    const { replacement, retiring, url } = this.#status;
    return [replacement, retiring].find((side) => side?.instanceId === instanceId)?.url ?? url;
  }

  #hold(handle: InstanceHandle, known?: CommandSetting): LiveProcess {
    const { host, leftovers, clock, onFailure, reach } = this.#tools;
    let setting = known;
    const process = new LiveProcess(handle, {
      leftovers,
      clock,
      setting: async () => (setting ??= await host.settingOf(this.#service, handle)),
      tell: (news) => this.post(news),
      foresee: (exit) => this.#foresee(handle.instanceId, exit),
      onFailure: (error) => onFailure(error, this.#service.name),
      reach,
    });
    this.#processes.set(handle.instanceId, process);
    return process;
  }

  async #follow(handle: InstanceHandle, how: "launched" | "adopted", setting?: CommandSetting): Promise<void> {
    const process = this.#hold(handle, setting);
    const { instanceId } = handle;
    this.post({ kind: how, instanceId, pid: await process.pid() });
    this.#watch(process, instanceId, how === "adopted" && this.#instances.get(instanceId)?.readyTime !== undefined);
  }

  /** The spec has changed and the process runs on: from now on it is asked as the new one says. */
  #watchAnew(): void {
    for (const [id, process] of this.#processes) {
      this.#watch(process, id, this.#instances.get(id)?.readyTime !== undefined);
    }
  }

  #watch(process: LiveProcess, instanceId: string, wasReady: boolean): void {
    const { spec, name } = this.#service;
    const { startupProbe, readinessProbe, livenessProbe, readinessTimeoutMs, minReadyMs } = spec.kind;
    process.watch({
      url: this.#urlOf(instanceId),
      path: publicPrefix(name),
      startupProbe,
      readinessProbe,
      livenessProbe,
      readinessTimeoutMs,
      minReadyMs,
      wasReady,
    });
  }
}

/** What an input brings about, with the rows of the instances that it changes. */
interface Change extends Step, Pick<Fact, "instanceToken"> {
  readonly instances: readonly Instance[];
  readonly guard: NonNullable<Fact["guard"]>;
  readonly cause: Input;
}

/** Whether it tells how an instance ended, or that it does not. */
function isEnd({ kind }: Input): boolean {
  return kind === "exited" || kind === "never_ran" || kind === "stop_failed";
}

function isOutdated(error: unknown): boolean {
  return error instanceof AppError && error.code === "aborted";
}

/** Whether the proxy is known to send the service's requests there. */
function leadsTo({ route }: ManagedService, url: string | undefined): boolean {
  return route?.state === "programmed" && route.target === url && route.programmedGeneration >= route.generation;
}
