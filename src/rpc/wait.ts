import type { Clock } from "../domain/clock.ts";
import { AppError, serviceNotFound } from "../domain/errors.ts";
import type { Event } from "../domain/event.ts";
import type { Service } from "../domain/service.ts";
import { judge, type WaitCondition, type WaitRules } from "./wait-condition.ts";
import type { EventFeed } from "./watch-feed.ts";

/** What a wait needs of the registry. */
export interface ServiceLookup {
  /** Throws not_found. */
  get(name: string): Promise<{ readonly service: Service; readonly revision: bigint }>;
}

export interface WaitRequest {
  readonly name: string;
  readonly condition: WaitCondition;
  /** Look only at what is so at this revision or later; 0: now. */
  readonly minRevision: bigint;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** A service as it was when the condition came to hold, undefined once it is gone, and the revision of that. */
export interface Sight {
  readonly service: Service | undefined;
  readonly revision: bigint;
}

/** Waits for conditions: looks at what is so, then at each change, in order and without a gap. */
export class Waiting {
  readonly #feed: EventFeed;
  readonly #registry: ServiceLookup;
  readonly #clock: Clock;
  readonly #rules: WaitRules;
  readonly #stopping = new AbortController();

  constructor(o: { feed: EventFeed; registry: ServiceLookup; clock: Clock; rules: WaitRules }) {
    this.#feed = o.feed;
    this.#registry = o.registry;
    this.#clock = o.clock;
    this.#rules = o.rules;
  }

  /** Ends every wait with SERVER_DRAINING: it can be tried again elsewhere, and would hold up the server until its time is over. */
  stop(): void {
    this.#stopping.abort();
  }

  /** Throws deadline_exceeded (WAIT_TIMEOUT), failed_precondition (WAIT_HOPELESS), not_found; of a service that is gone DELETED holds. */
  async until(request: WaitRequest): Promise<Sight> {
    const late = new AbortController();
    const cancel = this.#clock.after(request.timeoutMs, () => late.abort());
    let last: Sight | undefined;
    try {
      const signal = AbortSignal.any([request.signal, late.signal, this.#stopping.signal]);
      for await (const sight of this.#sights({ ...request, signal })) {
        last = sight;
        const verdict = judge(request.condition, sight.service, this.#rules);
        if (verdict === "holds") return sight;
        if (verdict === "hopeless") throw hopeless(request, sight.service);
      }
    } catch (error) {
      const isOver = late.signal.aborted || this.#stopping.signal.aborted;
      if (!isOver || error instanceof AppError) throw error;
    } finally {
      cancel();
    }
    request.signal.throwIfAborted();
    if (this.#stopping.signal.aborted) throw draining();
    throw timedOut(request, last);
  }

  /** The service as it is, and then after each transaction that changes it. */
  async *#sights(request: WaitRequest): AsyncGenerator<Sight, void> {
    await this.#feed.reached(request.minRevision, request.signal);
    const now = await this.#look(request);
    yield now;
    const { service, revision } = now;
    if (service === undefined) return;
    const items = this.#feed.follow({
      after: { storeUid: "", revision },
      select: (events) => events.filter((event) => event.service?.uid === service.uid),
      follower: "wait",
      signal: request.signal,
    });
    for await (const item of items) if (item.kind === "events") yield* item.events.map(sightOf);
  }

  async #look({ name, condition }: WaitRequest): Promise<Sight> {
    try {
      return await this.#registry.get(name);
    } catch (error) {
      const isGone = error instanceof AppError && error.reason === "SERVICE_NOT_FOUND" && condition === "deleted";
      if (!isGone) throw error;
      return { service: undefined, revision: this.#feed.head };
    }
  }
}

function sightOf({ body, after, revision }: Event): Sight {
  return { service: body.type === "service_deleted" ? undefined : after, revision };
}

function hopeless({ name, condition }: WaitRequest, service: Service | undefined): AppError {
  if (service === undefined) return serviceNotFound(name);
  const why = service.status.reason === "" ? "" : ` (${service.status.reason})`;
  return new AppError(
    "failed_precondition",
    service.wish === "deleted" ? "SERVICE_DELETING" : "WAIT_HOPELESS",
    `${name} cannot become ${condition} any more: it is wished ${service.wish} and is ${service.status.state}${why}`,
    { metadata: metadataOf(condition, service), resource: { type: "service", name } },
  );
}

function draining(): AppError {
  return new AppError("unavailable", "SERVER_DRAINING", "the server stops; wait again elsewhere or later", {
    retryAfterMs: 1_000,
  });
}

function timedOut({ name, condition, timeoutMs }: WaitRequest, last: Sight | undefined): AppError {
  const state = last?.service === undefined ? "" : `; it is ${last.service.status.state}`;
  return new AppError(
    "deadline_exceeded",
    "WAIT_TIMEOUT",
    `${name} was not ${condition} within ${timeoutMs} ms${state}`,
    {
      metadata: {
        service: name,
        condition,
        ...(last?.service === undefined ? {} : metadataOf(condition, last.service)),
      },
    },
  );
}

function metadataOf(
  condition: WaitCondition,
  { name, wish, generation, status, route }: Service,
): Record<string, string> {
  return {
    service: name,
    condition,
    wish,
    state: status.state,
    reason: status.reason,
    ready: String(status.ready),
    generation: String(generation),
    observed_generation: String(status.observedGeneration),
    route: route?.state ?? "",
  };
}
