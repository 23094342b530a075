import type { Event } from "../domain/event.ts";
import type { Service } from "../domain/service.ts";

/** What a watcher of services is told of one service. */
export interface ShownChange {
  readonly type: "snapshot" | "changed" | "gone";
  readonly service: Service;
  /** Of the transaction that changed it; 0 of a snapshot. */
  readonly revision: bigint;
}

/**
 * Knows which services a watcher has been shown, to tell it of each that stops matching its filter, and of no other. A watcher that resumed
 * was shown what we cannot know: it is told once of each change to something that does not match. Without a filter there is nothing to know:
 * it has been shown all that there was.
 */
export class ShownServices {
  readonly #matches: ((service: Service) => boolean) | undefined;
  readonly #known = new Map<string, boolean>();
  readonly #assumed: boolean;

  constructor(matches: ((service: Service) => boolean) | undefined, { resumed }: { resumed: boolean }) {
    this.#matches = matches;
    this.#assumed = resumed;
  }

  snapshot(services: readonly Service[]): ShownChange[] {
    const matching = this.#matches === undefined ? services : services.filter(this.#matches);
    if (this.#matches !== undefined) for (const { uid } of matching) this.#known.set(uid, true);
    return matching.map((service) => ({ type: "snapshot", service, revision: 0n }));
  }

  /** The changes that the events of whole revisions amount to: one for each service of a revision. */
  changes(events: readonly Event[]): ShownChange[] {
    return services(events).flatMap((change) => this.#show(change) ?? []);
  }

  #show(change: ChangedService): ShownChange | undefined {
    return this.#matches === undefined ? showAny(change) : this.#showMatching(change, this.#matches);
  }

  #showMatching(
    { service, revision, isCreated, isDeleted }: ChangedService,
    matches: (service: Service) => boolean,
  ): ShownChange | undefined {
    const wasShown = this.#known.get(service.uid) ?? (this.#assumed && !isCreated);
    if (!isDeleted && matches(service)) {
      this.#known.set(service.uid, true);
      return { type: "changed", service, revision };
    }
    if (isDeleted) this.#known.delete(service.uid);
    else this.#known.set(service.uid, false);
    return wasShown ? { type: "gone", service, revision } : undefined;
  }
}

function showAny({ service, revision, isCreated, isDeleted }: ChangedService): ShownChange | undefined {
  if (isCreated && isDeleted) return undefined;
  return { type: isDeleted ? "gone" : "changed", service, revision };
}

interface ChangedService {
  readonly service: Service;
  readonly revision: bigint;
  readonly isCreated: boolean;
  readonly isDeleted: boolean;
}

/** Several events of one transaction carry the same service as it was after it: once is enough. */
function services(events: readonly Event[]): ChangedService[] {
  const changed = new Map<string, ChangedService>();
  for (const { revision, after, body } of events) {
    if (after === undefined) continue;
    const key = `${revision} ${after.uid}`;
    const before = changed.get(key);
    changed.set(key, {
      service: after,
      revision,
      isCreated: before?.isCreated === true || body.type === "service_created",
      isDeleted: before?.isDeleted === true || body.type === "service_deleted",
    });
  }
  return [...changed.values()];
}
