import type { Event } from "../domain/event.ts";

/**
 * The messages that were made of batches of events, for the next watcher that needs the same. The feed keeps its newest events in memory, so
 * that the events of equal batches are the same objects; a message is forgotten with the first of them.
 */
export class SharedBatches<Made extends object> {
  readonly #made = new WeakMap<Event, MadeBatch<Made>[]>();

  /** `view` tells apart who sees what: equal views of the same events up to the same cursor are equal messages. */
  of(
    view: string,
    batch: { readonly events: readonly Event[]; readonly cursor: { readonly revision: bigint } },
    make: () => Made,
  ): Made {
    const [first] = batch.events;
    if (first === undefined) return make();
    const all = this.#made.get(first) ?? [];
    this.#made.set(first, all);
    const { revision } = batch.cursor;
    const known = all.find((each) => each.view === view && each.revision === revision);
    if (known !== undefined) return known.made;
    const made = make();
    // Slow watchers make batches that nobody else needs: what is kept stays small.
    if (all.length < largest) all.push({ view, revision, made });
    return made;
  }
}

interface MadeBatch<Made> {
  readonly view: string;
  readonly revision: bigint;
  readonly made: Made;
}

const largest = 16;
