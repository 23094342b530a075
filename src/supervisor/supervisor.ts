import { join } from "node:path";
import { AppError } from "../domain/errors.ts";
import type { Cursor, Event } from "../domain/event.ts";
import { isManaged, type ManagedService, type Service } from "../domain/service.ts";
import type { Instance } from "../domain/status.ts";
import type { Feed } from "../events/feed.ts";
import { removeEndedRunDirectories, removeOldOutput } from "./left-directories.ts";
import { type OutputChunk, type OutputStream, readOutput } from "./output.ts";
import { pause } from "./pause.ts";
import { Runner } from "./runner.ts";
import type { RunnerTools } from "./runner-tools.ts";

export interface SupervisorOptions extends RunnerTools {
  readonly stateDir: string;
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
  readonly #runners = new Map<string, Runner>();
  readonly #stopping = new AbortController();
  /** Runners that let go. */
  readonly #closing = new Set<Promise<void>>();
  #following: Promise<void> | undefined;

  constructor(options: SupervisorOptions) {
    this.#options = options;
  }

  /** Takes over what lives, collects the ends that were missed, and begins to follow. Throws when the store cannot be read. */
  async start(): Promise<void> {
    const { services, instances, node, storeUid, stateDir } = this.#options;
    const snapshot = await services.snapshot();
    const live = await instances.live(node);
    await removeEndedRunDirectories(join(stateDir, "run"), new Set(live.map(({ id }) => id)));
    await removeOldOutput(join(stateDir, "logs"), new Set(snapshot.services.map(({ uid }) => uid)));
    await this.#openAll(snapshot.services, new Map(live.map((instance) => [instance.serviceUid, instance])));
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
    this.#options.budget.stop();
  }

  /** What a service wrote, oldest first; with `follow` until the signal aborts or the service is deleted. */
  logs(o: {
    service: Service;
    streams: readonly OutputStream[];
    tailLines: number | undefined;
    follow: boolean;
    signal: AbortSignal;
  }): AsyncIterable<OutputChunk> {
    const { service, ...request } = o;
    return readOutput({ ...request, ...this.#options.host.outputPaths(service.uid) });
  }

  async #openAll(services: readonly Service[], live: ReadonlyMap<string, Instance>): Promise<void> {
    const queue = services.filter(isManaged).values();
    const takeOver = async () => {
      for (const service of queue) await this.#open(service, live.get(service.uid));
    };
    await Promise.all(Array.from({ length: takenOverAtOnce }, takeOver));
  }

  async #follow(from: Cursor): Promise<void> {
    const { signal } = this.#stopping;
    for (let cursor = from; !signal.aborted; ) {
      try {
        for await (const item of this.#options.feed.follow({ after: cursor, signal })) {
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
      await this.#openAll(snapshot.services, new Map());
      const known = new Set(snapshot.services.map(({ uid }) => uid));
      for (const uid of this.#runners.keys()) if (!known.has(uid)) this.#close(uid);
      return { storeUid, revision: snapshot.revision };
    } catch (error) {
      if (!this.#stopping.signal.aborted) onFailure(error, "");
      return cursor;
    }
  }

  #apply({ service, body, after }: Event): void {
    if (service === undefined) return;
    if (body.type === "service_deleted") return this.#close(service.uid);
    if (after === undefined || !isManaged(after)) return;
    const runner = this.#runners.get(service.uid);
    if (runner === undefined) void this.#open(after, undefined);
    else runner.update(after);
  }

  /** Never rejects: a service that cannot be taken over holds up no other. */
  async #open(service: ManagedService, live: Instance | undefined): Promise<void> {
    const known = this.#runners.get(service.uid);
    if (known !== undefined) return known.update(service);
    const runner = new Runner(service, this.#options);
    this.#runners.set(service.uid, runner);
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
    this.#options.host.releasePort(uid);
    await this.#options.host.forgetOutput(uid);
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

function isDraining(error: unknown): boolean {
  return error instanceof AppError && error.reason === "SERVER_DRAINING";
}
