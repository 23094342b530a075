import { randomUUID } from "node:crypto";
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
import type { Launched, LaunchRequest } from "./launcher.ts";
import { lost } from "./leftovers.ts";
import { LiveProcess } from "./live-process.ts";
import { pause } from "./pause.ts";
import type { CommandSetting } from "./probes/command-setting.ts";
import { spawnFailed } from "./run-directory.ts";
import type { Fact, InstanceToken, RunnerTools } from "./runner-tools.ts";

const tryAgainMs = 1_000;
const routeOutMs = 5_000;

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
  #turn: "none" | "asked" | "given" = "none";
  #routeOut = Promise.withResolvers<void>();
  #routeSwitched: { readonly url: string | undefined; readonly resolve: () => void } | undefined;
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
      if (await this.#attempt(() => this.#take(input))) this.#inputs.shift();
      if (this.#stopping.signal.aborted) break;
    }
    this.#working = undefined;
  }

  async #attempt(run: () => Promise<void>): Promise<boolean> {
    const { signal } = this.#stopping;
    try {
      await run();
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      this.#tools.onFailure(error, this.#service.name);
      await pause(this.#tools.clock, tryAgainMs, signal).catch(() => undefined);
      return false;
    }
  }

  async #take(input: Input): Promise<void> {
    const wasRouted = this.#service.route !== undefined;
    const next = this.#step(input);
    // A change that no event tells is written with the next one that does.
    if (next.events.length > 0)
      await this.#record(next, rowsAfter(input, next.status, this.#instances, this.#tools.clock.now()));
    else this.#status = next.status;
    this.#reached(input, next);
    for (const effect of next.effects) this.#carryOut(effect, wasRouted);
    if (this.#turn === "given" && next.effects.some(({ kind }) => kind === "launch")) await this.#tryToLaunch();
    if (!liveStates.has(this.#status.state) || this.#status.state === "stop_failed") {
      this.#shuttingDown?.resolve();
      this.#atRest?.resolve();
      this.#atRest = undefined;
    }
  }

  #reached({ kind }: Input, { effects }: Step): void {
    const { reach } = this.#tools;
    if (kind === "launched") reach("start_recorded");
    if (kind === "exited") reach("exit_recorded");
    if (effects.some((effect) => effect.kind === "retire")) reach("promoted");
    if (effects.some((effect) => effect.kind === "stop")) reach("stop_recorded");
  }

  #step(input: Input): Step {
    const { clock, random } = this.#tools;
    return step(this.#status, input, this.#want(), { now: clock.now(), random: random() });
  }

  #want(): Want {
    const { wish, generation, resets, spec } = this.#service;
    const ends = this.#shuttingDown !== undefined && liveStates.has(this.#status.state) && wish === "running";
    const waitingFor = this.#tools.unmet(this.#service);
    return { wish: ends ? "stopped" : wish, generation, resets, spec: spec.kind, waitingFor };
  }

  async #record({ status, events }: Step, instances: readonly Instance[], intent: Intent = {}): Promise<void> {
    await this.#write({ status, events, ...(instances.length === 0 ? {} : { instances }), ...intent });
    this.#status = status;
    for (const instance of instances) {
      if (instance.state === "ended") this.#forget(instance.id);
      else this.#instances.set(instance.id, instance);
    }
  }

  /** Durable, or we let go: then the next server finds out by itself. */
  async #write(fact: Omit<Fact, "serviceUid">): Promise<void> {
    const written = this.#tools.facts.record({ serviceUid: this.#service.uid, ...fact });
    await Promise.race([written, this.#letGo.promise]);
  }

  /** Its end is durable, so its own record of it is needed no more. */
  #forget(instanceId: string): void {
    const { host, leftovers, onFailure } = this.#tools;
    this.#instances.delete(instanceId);
    this.#processes.delete(instanceId);
    host.releasePort(instanceId);
    leftovers.forget(host.runDir(instanceId)).catch((error: unknown) => onFailure(error, this.#service.name));
  }

  #carryOut(effect: Effect, wasRouted: boolean): void {
    switch (effect.kind) {
      case "launch":
        return this.#askForTurn();
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

  /** A start waits its turn without holding up anything: a stop that comes meanwhile wins. */
  #askForTurn(): void {
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

  async #tryToLaunch(): Promise<void> {
    if (this.#shuttingDown !== undefined) return;
    try {
      await this.#launch();
    } catch (error) {
      if (this.#stopping.signal.aborted) return;
      const { onFailure, clock } = this.#tools;
      onFailure(error, this.#service.name);
      this.#wakeAt(new Date(clock.now().getTime() + tryAgainMs));
    }
  }

  async #launch(): Promise<void> {
    const service = this.#service;
    const plan = await this.#plan(service);
    // The wish has changed meanwhile; the turn is kept for the new one.
    if (this.#service.generation !== service.generation || this.#service.wish !== service.wish) {
      return this.#tools.host.releasePort(plan.instanceId);
    }
    this.#turn = "none";
    this.#cancelWake?.();
    const { instanceId, url, unenforced, token } = plan;
    const intent = this.#step({ kind: "launching", instanceId, url, unenforced });
    const role = intent.status.replacement?.instanceId === instanceId ? "replacement" : "current";
    const instance = this.#newInstance(service, instanceId, role);
    const guard = { generation: service.generation, wish: "running" } as const;
    try {
      await this.#record(intent, [instance], { guard, ...(token === undefined ? {} : { instanceToken: token }) });
    } catch (error) {
      this.#tools.host.releasePort(instanceId);
      // The wish has changed: the log brings it in a moment.
      if (error instanceof AppError && error.code === "aborted") return;
      throw error;
    }
    this.#tools.reach("intent_recorded");
    await this.#fork(instance, plan);
  }

  /** Everything about a start that can go wrong before it; what does is told as its end. */
  async #plan(service: ManagedService): Promise<Plan> {
    const instanceId = randomUUID();
    const { host, tokens } = this.#tools;
    let url = this.#status.url;
    try {
      url = await host.chooseUrl(service, instanceId);
      const { secret, token } = await tokens.forInstance(service, instanceId);
      const request = await host.prepare(service, instanceId, url, secret);
      return { instanceId, url, token, request, unenforced: request.unenforced };
    } catch (error) {
      // The database is away: that says nothing of the service.
      if (error instanceof AppError && error.code === "unavailable") throw error;
      const request = error instanceof Error ? error : new Error(String(error));
      return { instanceId, url, token: undefined, request, unenforced: "" };
    }
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

  /** Forks at the gate, makes the identity durable, and only then lets the command run. */
  async #fork(instance: Instance, { request }: Plan): Promise<void> {
    const { launcher, reach, clock } = this.#tools;
    let launched: Launched | undefined;
    try {
      if (request instanceof Error) throw request;
      launched = await launcher.launch(request);
      reach("forked");
      const identified = { ...instance, process: launched.identity };
      await this.#write({ instances: [identified], events: [] });
      this.#instances.set(instance.id, identified);
      reach("identity_recorded");
    } catch (error) {
      await launched?.abandon();
      const message = error instanceof Error ? error.message : String(error);
      return this.post({ kind: "exited", instanceId: instance.id, exit: spawnFailed(message, clock.now()) });
    }
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

type Intent = Pick<Fact, "instanceToken" | "guard">;

/** What a start needs, or why it cannot be. */
interface Plan {
  readonly instanceId: string;
  readonly url: string | undefined;
  readonly token: InstanceToken | undefined;
  readonly request: LaunchRequest | Error;
  /** Which limits will have no effect, for people. */
  readonly unenforced: string;
}

/** Whether the proxy is known to send the service's requests there. */
function leadsTo({ route }: ManagedService, url: string | undefined): boolean {
  return route?.state === "programmed" && route.target === url && route.programmedGeneration >= route.generation;
}
