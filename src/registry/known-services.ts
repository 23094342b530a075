import type { Clock } from "../domain/clock.ts";
import type { Event } from "../domain/event.ts";
import type { Service } from "../domain/service.ts";
import type { Feed } from "../events/feed.ts";
import { estimatedSize } from "../events/ring.ts";

/** What reading services one by one needs of the store. */
export interface ServiceSource {
  byName(name: string): Promise<FoundService>;
  /** The newest revision, no older than the question. */
  head(): Promise<bigint>;
}

/** What there is of a name, and the revision that this is true at. */
export interface FoundService {
  readonly service: Service | undefined;
  readonly revision: bigint;
}

export interface KnownServicesOptions {
  readonly source: ServiceSource;
  readonly feed: Pick<Feed, "follow">;
  readonly clock: Clock;
  readonly onFailure: (error: unknown) => void;
  /** How much memory the services may take, as estimated. Default 2 MiB. */
  readonly bytes?: number;
}

/**
 * The services that were asked for last, kept up to date by the event log. Nobody is told less than the database would tell, whichever server
 * wrote last: it is asked for its revision, by all calls of one turn together, and what is known here is the answer only if the log was followed
 * exactly that far. Otherwise, and while the log cannot be followed, the database answers.
 */
export class KnownServices {
  readonly #options: KnownServicesOptions;
  readonly #limitBytes: number;
  readonly #stopping = new AbortController();
  /** By name; the first is the one that was not asked for the longest. */
  readonly #known = new Map<string, Known>();
  #bytes = 0;
  #isFollowing = false;
  /** How far the log was followed. */
  #followed = 0n;
  #following: Promise<void> | undefined;

  constructor(options: KnownServicesOptions) {
    this.#options = options;
    this.#limitBytes = options.bytes ?? 2 * 1_048_576;
  }

  async start(): Promise<void> {
    this.#following = this.#follow();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#following;
  }

  /** The service of exactly this name. What was committed before the question is in the answer. */
  async byName(name: string): Promise<FoundService> {
    if (!this.#known.has(name)) return this.#read(name);
    const revision = await this.#options.source.head();
    const known = this.#known.get(name);
    if (known === undefined || later(known.revision, this.#followed) !== revision) return this.#read(name);
    this.#known.delete(name);
    this.#known.set(name, known);
    return { service: known.service, revision };
  }

  async #read(name: string): Promise<FoundService> {
    const found = await this.#options.source.byName(name);
    const { service, revision } = found;
    // What is older may lack what the log has told meanwhile, when nobody listened for this name.
    if (!this.#isFollowing || revision < later(this.#known.get(name)?.revision ?? 0n, this.#followed)) return found;
    this.#forget(name);
    if (service !== undefined) this.#keep(service, revision);
    return found;
  }

  async #follow(): Promise<void> {
    const { feed, clock, onFailure } = this.#options;
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      try {
        for await (const item of feed.follow({ after: undefined, signal })) {
          if (item.kind === "events") for (const event of item.events) this.#apply(event);
          this.#followed = item.cursor.revision;
          this.#isFollowing = true;
        }
      } catch (error) {
        if (!signal.aborted) onFailure(error);
      }
      this.#forgetAll();
      if (!signal.aborted) await new Promise<void>((resolve) => clock.after(200, resolve));
    }
  }

  #apply({ service: of, revision, after, body }: Event): void {
    const known = of === undefined ? undefined : this.#known.get(of.name);
    if (of === undefined || known === undefined || revision < known.revision) return;
    const isGone = after === undefined || body.type === "service_deleted";
    // Of the events of one revision each carries the service as it was after all of them.
    if (!isGone && revision === known.revision) return;
    if (isGone) this.#forget(of.name);
    else this.#keep(after, revision);
  }

  #keep(service: Service, revision: bigint): void {
    const bytes = estimatedSize(service);
    this.#bytes += bytes - (this.#known.get(service.name)?.bytes ?? 0);
    this.#known.set(service.name, { service, revision, bytes });
    for (const name of this.#known.keys()) {
      if (this.#bytes <= this.#limitBytes) return;
      this.#forget(name);
    }
  }

  #forget(name: string): void {
    this.#bytes -= this.#known.get(name)?.bytes ?? 0;
    this.#known.delete(name);
  }

  #forgetAll(): void {
    this.#isFollowing = false;
    this.#known.clear();
    this.#bytes = 0;
  }
}

function later(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

/** A service as it was at a revision, and has been since, as far as the log was followed. */
interface Known {
  readonly service: Service;
  readonly revision: bigint;
  readonly bytes: number;
}
