import { join } from "node:path";
import { AppError } from "../domain/errors.ts";
import type { Cursor, Event } from "../domain/event.ts";
import type { ProbeResult } from "../domain/explain.ts";
import { isManaged, type ManagedService, type Service } from "../domain/service.ts";
import type { Instance, ServiceState } from "../domain/status.ts";
import type { Feed } from "../events/feed.ts";
import type { ControlGroups } from "./control-groups.ts";
import { DependencyGraph } from "./dependency-graph.ts";
import { ExternalProbes } from "./external-probes.ts";
import { removeEndedRunDirectories, removeOldOutput } from "./left-directories.ts";
import { lastLines, type OutputChunk, type OutputRequest, readOutput } from "./output.ts";
import { aborted, pause } from "./pause.ts";
import { Runner } from "./runner.ts";
import type { RunnerTools } from "./runner-tools.ts";
import { signalInstance } from "./signal-instance.ts";

export interface LogRequest extends Omit<OutputRequest, "stdoutPath" | "stderrPath" | "closed"> {
  readonly service: Service;
}

export interface SupervisorOptions extends Omit<RunnerTools, "unmet" | "dependentsGone"> {
  readonly stateDir: string;
  /** Undefined: instances get no control groups. */
  readonly groups?: ControlGroups | undefined;
  readonly feed: Pick<Feed, "follow">;
  readonly storeUid: string;
  readonly services: { snapshot(): Promise<{ services: readonly Service[]; revision: bigint }> };
  readonly instances: { live(node: string): Promise<readonly Instance[]> };
}

const takenOverAtOnce = 16;
const tryAgainMs = 500;

/** Makes the processes of this node match what is wished: one runner for each managed service. Stopping it leaves the processes running. */
export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #tools: RunnerTools;
  readonly #runners = new Map<string, Runner>();
  /** Everything that is registered, as others depend on it. */
  readonly #dependencies = new DependencyGraph();
  readonly #externals: ExternalProbes;
  readonly #stopping = new AbortController();
  /** Runners that let go. */
  readonly #closing = new Set<Promise<void>>();
  #outputRisk = "";
  #following: Promise<void> | undefined;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#externals = new ExternalProbes(options);
    this.#tools = {
      ...options,
      unmet: (service) => this.#dependencies.unmet(service),
      dependentsGone: (service) => this.#dependentsGone(service),
    };
  }

  /** Takes over what lives, collects the ends that were missed, and begins to follow. Throws when the store cannot be read. */
  async start(): Promise<void> {
    const { services, instances, node, storeUid, stateDir, groups } = this.#options;
    const snapshot = await services.snapshot();
    const live = await instances.live(node);
    this.#noteAll(snapshot.services);
    const liveIds = new Set(live.map(({ id }) => id));
    await removeEndedRunDirectories(join(stateDir, "run"), liveIds);
    groups?.removeStale(liveIds);
    await removeOldOutput(join(stateDir, "logs"), new Set(snapshot.services.map(({ uid }) => uid)));
    await this.#openAll(
      snapshot.services,
      Map.groupBy(live, ({ serviceUid }) => serviceUid),
    );
    this.#following = this.#follow({ storeUid, revision: snapshot.revision });
  }

  /** Ends all processes side by side, although they are wished running; the next server starts them again. Returns early when the signal aborts. */
  async stopAll(signal?: AbortSignal): Promise<void> {
    const ended = Promise.all([...this.#runners.values()].map((runner) => runner.shutDown()));
    await Promise.race([ended, ...(signal === undefined ? [] : [aborted(signal)])]);
  }

  /** Lets go of all processes; they run on, and the next server adopts them. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#following;
    await Promise.all([...this.#runners.values()].map((runner) => runner.stop()));
    await Promise.all(this.#closing);
    await this.#externals.stop();
    this.#options.budget.stop();
  }

  /**
   * Sends a signal to the process group of an instance, the current one unless it is named, or only looks whether it could; returns the instance.
   * Throws failed_precondition when there is no such process.
   */
  async signal(
    service: Service,
    { signal, instanceId, lookOnly }: { signal: NodeJS.Signals; instanceId: string | undefined; lookOnly: boolean },
  ): Promise<string> {
    const handle = this.#runners.get(service.uid)?.find(instanceId)?.handle;
    if (handle === undefined) throw notRunning(service);
    if (!lookOnly && !(await signalInstance(handle, this.#options.leftovers, signal))) throw notRunning(service);
    return handle.instanceId;
  }

  /** Starts that wait for their turn. */
  get queuedStarts(): number {
    return this.#options.budget.queued;
  }

  /** The state of every managed service of this node. */
  states(): ServiceState[] {
    return [...this.#runners.values()].map(({ state }) => state);
  }

  /** The last answers of a service's probes, newest first. */
  probeResults(service: Service): readonly ProbeResult[] {
    const runner = this.#runners.get(service.uid);
    return runner === undefined ? this.#externals.results(service.uid) : (runner.find(undefined)?.probeResults ?? []);
  }

  /** The last lines that a service wrote to its standard error, or where that is empty to its standard output. */
  async lastLines(service: Service, count: number): Promise<string[]> {
    for (const stream of ["stderr", "stdout"] as const) {
      const lines = await lastLines(this.#options.host.outputPaths(service.uid), stream, count);
      if (lines.length > 0) return lines;
    }
    return [];
  }

  /** What a service wrote, oldest first; with `follow` until the signal aborts or the service is deleted. */
  logs({ service, ...request }: LogRequest): AsyncIterable<OutputChunk> {
    const { host } = this.#options;
    return readOutput({ ...request, ...host.outputPaths(service.uid), closed: host.outputClosed(service.uid) });
  }

  /** What is written can be kept (empty), or not, and why. Every service is told, also one that is registered later. */
  tellOutputRisk(risk: string): void {
    this.#outputRisk = risk;
    for (const runner of this.#runners.values()) runner.post({ kind: "output", risk });
  }

  async #openAll(services: readonly Service[], live: ReadonlyMap<string, readonly Instance[]>): Promise<void> {
    const queue = services.filter(isManaged).values();
    const takeOver = async () => {
      for (const service of queue) await this.#open(service, live.get(service.uid) ?? []);
    };
    await Promise.all(Array.from({ length: takenOverAtOnce }, takeOver));
  }

  async #follow(from: Cursor): Promise<void> {
    const { signal } = this.#stopping;
    for (let cursor = from; !signal.aborted; ) {
      try {
        for await (const item of this.#options.feed.follow({ after: cursor, signal, follower: "supervisor" })) {
          if (item.kind === "events") for (const event of item.events) this.#apply(event);
          cursor = item.cursor;
        }
      } catch (error) {
        if (signal.aborted || isDraining(error)) return;
        this.#options.onFailure(error, "");
        cursor = await this.#lookAgain(cursor);
      }
    }
  }

  /** Fell out of what the log keeps, or a read failed. Only the newest wish counts, so the present stands in for what was missed. */
  async #lookAgain(cursor: Cursor): Promise<Cursor> {
    const { clock, services, storeUid, onFailure } = this.#options;
    try {
      await pause(clock, tryAgainMs, this.#stopping.signal);
      const snapshot = await services.snapshot();
      this.#noteAll(snapshot.services);
      await this.#openAll(snapshot.services, new Map());
      const known = new Set(snapshot.services.map(({ uid }) => uid));
      for (const uid of this.#runners.keys()) if (!known.has(uid)) this.#close(uid);
      this.#externals.keep(known);
      return { storeUid, revision: snapshot.revision };
    } catch (error) {
      if (!this.#stopping.signal.aborted) onFailure(error, "");
      return cursor;
    }
  }

  #apply({ service, body, after }: Event): void {
    if (service === undefined) return;
    const isGone = body.type === "service_deleted";
    if (isGone) {
      this.#dependencies.forget(service);
      this.#externals.forget(service.uid);
      this.#close(service.uid);
    } else if (after !== undefined) {
      this.#dependencies.note(after);
      if (isManaged(after)) this.#update(after);
      else this.#externals.note(after);
    }
    for (const uid of this.#dependencies.dependentsOf(service.name)) this.#runners.get(uid)?.post({ kind: "look" });
  }

  #noteAll(services: readonly Service[]): void {
    for (const service of services) {
      this.#dependencies.note(service);
      if (!isManaged(service)) this.#externals.note(service);
    }
  }

  #update(service: ManagedService): void {
    const runner = this.#runners.get(service.uid);
    if (runner === undefined) void this.#open(service, []);
    else runner.update(service);
  }

  async #dependentsGone({ name }: Service): Promise<void> {
    const runners = this.#dependencies.dependentsOf(name).flatMap((uid) => this.#runners.get(uid) ?? []);
    await Promise.all(runners.map((runner) => runner.whenAtRest()));
  }

  /** Never rejects: a service that cannot be taken over holds up no other. */
  async #open(service: ManagedService, live: readonly Instance[]): Promise<void> {
    const known = this.#runners.get(service.uid);
    if (known !== undefined) return known.update(service);
    const runner = new Runner(service, this.#tools);
    this.#runners.set(service.uid, runner);
    if (this.#outputRisk !== "") runner.post({ kind: "output", risk: this.#outputRisk });
    await runner.start(live).catch((error: unknown) => this.#options.onFailure(error, service.name));
  }

  #close(uid: string): void {
    const runner = this.#runners.get(uid);
    if (runner === undefined) return;
    this.#runners.delete(uid);
    const closing = this.#letGo(uid, runner)
      .catch((error: unknown) => this.#options.onFailure(error, ""))
      .finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
  }

  async #letGo(uid: string, runner: Runner): Promise<void> {
    await runner.stop();
    await runner.forget();
    this.#options.host.forgetPort(uid);
    await this.#options.host.forgetOutput(uid);
  }
}

function notRunning({ name, status }: Service): AppError {
  return new AppError(
    "failed_precondition",
    "SERVICE_NOT_RUNNING",
    `${name} has no process to signal: it is ${status.state}`,
    {
      metadata: { service: name, state: status.state },
      resource: { type: "service", name },
    },
  );
}

function isDraining(error: unknown): boolean {
  return error instanceof AppError && error.reason === "SERVER_DRAINING";
}
