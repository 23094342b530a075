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
 * was shown what we cannot know: it is told once of each change to something that does not match.
 */
export class ShownServices {
  readonly #matches: (service: Service) => boolean;
  readonly #known = new Map<string, boolean>();
  readonly #assumed: boolean;

  constructor(matches: (service: Service) => boolean, { resumed }: { resumed: boolean }) {
    this.#matches = matches;
    this.#assumed = resumed;
  }

  snapshot(services: readonly Service[]): ShownChange[] {
    const matching = services.filter(this.#matches);
    for (const { uid } of matching) this.#known.set(uid, true);
    return matching.map((service) => ({ type: "snapshot", service, revision: 0n }));
  }

  /** The changes that the events of whole revisions amount to: one for each service of a revision. */
  changes(events: readonly Event[]): ShownChange[] {
    return services(events).flatMap((change) => this.#show(change) ?? []);
  }

  #show({ service, revision, isCreated, isDeleted }: ChangedService): ShownChange | undefined {
    const wasShown = this.#known.get(service.uid) ?? (this.#assumed && !isCreated);
    if (!isDeleted && this.#matches(service)) {
      this.#known.set(service.uid, true);
      return { type: "changed", service, revision };
    }
    if (isDeleted) this.#known.delete(service.uid);
    else this.#known.set(service.uid, false);
    return wasShown ? { type: "gone", service, revision } : undefined;
  }
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
