import { randomUUID } from "node:crypto";
import { AppError } from "../domain/errors.ts";
import { type Effect, type Input, type Step, step, type Want } from "../domain/lifecycle.ts";
import { type ManagedService, publicPrefix } from "../domain/service.ts";
import { type Instance, liveStates, type ServiceStatus } from "../domain/status.ts";
import { inherit } from "./inheritance.ts";
import type { InstanceHandle } from "./instance-handle.ts";
import type { Launched, LaunchRequest } from "./launcher.ts";
import { lost } from "./leftovers.ts";
import { LiveProcess } from "./live-process.ts";
import { pause } from "./pause.ts";
import { removeRunDirectory, spawnFailed } from "./run-directory.ts";
import type { Fact, InstanceToken, RunnerTools } from "./runner-tools.ts";

const tryAgainMs = 1_000;

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
  /** As it is recorded; undefined once its end is. */
  #instance: Instance | undefined;
  #process: LiveProcess | undefined;
  #inputs: Input[] = [];
  #working: Promise<void> | undefined;
  #cancelWake: (() => void) | undefined;
  #turn: "none" | "asked" | "given" = "none";
  #routeOut = Promise.withResolvers<void>();
  #shuttingDown: PromiseWithResolvers<void> | undefined;

  constructor(service: ManagedService, tools: RunnerTools) {
    this.#service = service;
    this.#status = service.status;
    this.#tools = tools;
    this.#letGo.promise.catch(() => undefined);
  }

  /** Takes over what the last server left, if it left something, and begins. */
  async start(live: Instance | undefined): Promise<void> {
    if (live !== undefined) await this.#takeOver(live);
    else if (liveStates.has(this.#status.state)) {
      this.post({ kind: "exited", exit: lost("no record of its process is left") });
    }
    this.post({ kind: "look" });
  }

  /** The service as the log tells it now. Only the newest wish counts. */
  update(service: ManagedService): void {
    if (service.revision < this.#service.revision) return;
    this.#service = service;
    if (service.route === undefined) this.#routeOut.resolve();
    this.post({ kind: "look" });
  }

  /** Ends the process although it is wished running; the next server starts it again. Resolves when it is gone or cannot be ended. */
  async shutDown(): Promise<void> {
    if (this.#stopping.signal.aborted) return;
    this.#shuttingDown ??= Promise.withResolvers();
    this.post({ kind: "look" });
    await this.#shuttingDown.promise;
  }

  /** Lets go; the process runs on. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#letGo.reject(this.#stopping.signal.reason);
    this.#cancelWake?.();
    this.#process?.letGo();
    this.#shuttingDown?.resolve();
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
    if (next.status !== this.#status || next.events.length > 0)
      await this.#record(next, this.#instanceAfter(input, next));
    for (const effect of next.effects) this.#carryOut(effect, wasRouted);
    if (this.#turn === "given" && next.effects.some(({ kind }) => kind === "launch")) await this.#tryToLaunch();
    if (!liveStates.has(this.#status.state) || this.#status.state === "stop_failed") this.#shuttingDown?.resolve();
  }

  #step(input: Input): Step {
    const { clock, random } = this.#tools;
    return step(this.#status, input, this.#want(), { now: clock.now(), random: random() });
  }

  #want(): Want {
    const { wish, generation, spec } = this.#service;
    const ends = this.#shuttingDown !== undefined && liveStates.has(this.#status.state) && wish === "running";
    return { wish: ends ? "stopped" : wish, generation, spec: spec.kind };
  }

  async #record({ status, events }: Step, instance: Instance | undefined, intent: Intent = {}): Promise<void> {
    const ended = instance?.state === "ended" ? instance.id : undefined;
    await this.#write({ status, events, ...(instance === undefined ? {} : { instance }), ...intent });
    this.#status = status;
    if (instance !== undefined) this.#instance = ended === undefined ? instance : undefined;
    if (ended !== undefined) this.#forget(ended);
  }

  /** Durable, or we let go: then the next server finds out by itself. */
  async #write(fact: Omit<Fact, "serviceUid">): Promise<void> {
    const written = this.#tools.facts.record({ serviceUid: this.#service.uid, ...fact });
    await Promise.race([written, this.#letGo.promise]);
  }

  /** Its end is durable, so its own record of it is needed no more. */
  #forget(instanceId: string): void {
    this.#process = undefined;
    removeRunDirectory(this.#tools.host.runDir(instanceId)).catch((error: unknown) =>
      this.#tools.onFailure(error, this.#service.name),
    );
  }

  /** What the instance's row says after an input; undefined: the same as before. */
  #instanceAfter(input: Input, { status }: Step): Instance | undefined {
    const instance = this.#instance;
    if (instance === undefined) return undefined;
    const state = status.state === "starting" || status.state === "running" ? "running" : "stopping";
    switch (input.kind) {
      case "exited":
      case "never_ran":
        return { ...instance, state: "ended", pid: undefined, exit: status.lastExit };
      case "launched":
      case "adopted":
        return { ...instance, state, pid: input.pid, startTime: instance.startTime ?? this.#tools.clock.now() };
      case "ready":
        return { ...instance, readyTime: status.readyTime };
      case "look":
      case "due":
      case "launching":
      case "unready":
      case "readiness_missed":
      case "stop_failed":
        return state === "stopping" ? { ...instance, state } : undefined;
    }
  }

  #carryOut(effect: Effect, wasRouted: boolean): void {
    switch (effect.kind) {
      case "launch":
        return this.#askForTurn();
      case "stop":
        return this.#beginStop(effect.routeFirst && wasRouted);
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
    void this.#tools.budget.take().then(() => {
      this.#turn = "given";
      this.post({ kind: "due" });
    });
  }

  #beginStop(isRouted: boolean): void {
    this.#routeOut = Promise.withResolvers();
    if (this.#service.route === undefined) this.#routeOut.resolve();
    this.#process?.stop({
      routeOut: isRouted ? this.#routeOut.promise : undefined,
      drainMs: this.#tools.drainMs,
      graceMs: this.#service.spec.kind.stopGraceMs,
    });
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
    if (this.#service.generation !== service.generation || this.#service.wish !== service.wish) return;
    this.#turn = "none";
    this.#cancelWake?.();
    const instance = this.#newInstance(service, plan.instanceId);
    const intent = this.#step({ kind: "launching", instanceId: instance.id, url: plan.url });
    const guard = { generation: service.generation, wish: "running" } as const;
    const { token } = plan;
    try {
      await this.#record(intent, instance, { guard, ...(token === undefined ? {} : { instanceToken: token }) });
    } catch (error) {
      // The wish has changed: the log brings it in a moment.
      if (error instanceof AppError && error.code === "aborted") return;
      throw error;
    }
    await this.#fork(instance, plan);
  }

  /** Everything about a start that can go wrong before it; what does is told as its end. */
  async #plan(service: ManagedService): Promise<Plan> {
    const instanceId = randomUUID();
    const { host, tokens } = this.#tools;
    let url = this.#status.url;
    try {
      url = await host.chooseUrl(service);
      const { secret, token } = await tokens.forInstance(service, instanceId);
      return { instanceId, url, token, request: await host.prepare(service, instanceId, url, secret) };
    } catch (error) {
      // The database is away: that says nothing of the service.
      if (error instanceof AppError && error.code === "unavailable") throw error;
      return { instanceId, url, token: undefined, request: error instanceof Error ? error : new Error(String(error)) };
    }
  }

  #newInstance(service: ManagedService, id: string): Instance {
    return {
      id,
      service: service.name,
      serviceUid: service.uid,
      generation: service.generation,
      node: this.#tools.node,
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
    let launched: Launched | undefined;
    try {
      if (request instanceof Error) throw request;
      launched = await this.#tools.launcher.launch(request);
      const identified = { ...instance, process: launched.identity };
      await this.#write({ instance: identified, events: [] });
      this.#instance = identified;
    } catch (error) {
      await launched?.abandon();
      const message = error instanceof Error ? error.message : String(error);
      return this.post({ kind: "exited", exit: spawnFailed(message, this.#tools.clock.now()) });
    }
    await launched.release();
    await this.#follow(launched, "launched");
  }

  async #takeOver(live: Instance): Promise<void> {
    const { host, leftovers, clock } = this.#tools;
    this.#instance = live;
    host.claimPort(this.#service);
    const found = await inherit(live, host.runDir(live.id), { leftovers, now: () => clock.now() });
    switch (found.kind) {
      case "never_ran":
        return this.post({ kind: "never_ran", exit: found.exit });
      case "gone":
        return this.#hold(found.handle).clear();
      case "alive":
        await host.keepOutput(this.#service.uid);
        await this.#follow(found.handle, "adopted");
        // A stop that the last server had begun is begun again.
        if (this.#status.state === "stopping" || this.#status.state === "stop_failed") this.#beginStop(false);
    }
  }

  #hold(handle: InstanceHandle): LiveProcess {
    const { leftovers, clock, onFailure } = this.#tools;
    this.#process = new LiveProcess(handle, {
      leftovers,
      clock,
      tell: (news) => this.post(news),
      onFailure: (error) => onFailure(error, this.#service.name),
    });
    return this.#process;
  }

  async #follow(handle: InstanceHandle, how: "launched" | "adopted"): Promise<void> {
    const process = this.#hold(handle);
    this.post({ kind: how, pid: await process.pid() });
    const { spec, name } = this.#service;
    process.watch({
      url: this.#status.url,
      path: publicPrefix(name),
      readinessTimeoutMs: spec.kind.readinessTimeoutMs,
      minReadyMs: spec.kind.minReadyMs,
      wasReady: how === "adopted" && this.#status.readyTime !== undefined,
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
}
