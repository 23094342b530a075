import type { Event } from "../domain/event.ts";

/**
 * The messages that were made of batches of events, for the next watcher that needs the same. The feed keeps its newest events in memory, so
 * that the events of equal batches are the same objects; a message is forgotten with the first of them.
 */
export class SharedBatches<Made extends object> {
  readonly #made = new WeakMap<Event, Map<string, Made>>();

  /** `view` tells apart who sees what: equal views of the same events up to the same cursor are equal messages. */
  of(
    view: string,
    batch: { readonly events: readonly Event[]; readonly cursor: { readonly revision: bigint } },
    make: () => Made,
  ): Made {
    const [first] = batch.events;
    if (first === undefined) return make();
    const byView = this.#made.get(first) ?? new Map<string, Made>();
    this.#made.set(first, byView);
    const key = `${batch.cursor.revision} ${view}`;
    const known = byView.get(key);
    if (known !== undefined) return known;
    const made = make();
    // Slow watchers make batches that nobody else needs: what is kept stays small.
    if (byView.size < largest) byView.set(key, made);
    return made;
  }
}

const largest = 16;
