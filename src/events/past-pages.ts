import type { Event } from "../domain/event.ts";
import type { EventSource } from "./feed.ts";

const eventsAPage = 256;
/** Pages begin at multiples of this, so that those who resume from cursors near each other need the same ones. */
const revisionsApart = 256n;
const readsAtOnce = 2;
const pagesKept = 4;
const keptForMs = 2_000;

/**
 * What is no longer in memory, read once for all who need it about now. However many followers have to catch up, only so many reads run at once,
 * and the connections that calls need stay free.
 */
export class PastPages {
  readonly #source: Pick<EventSource, "readAfter" | "bounds">;
  readonly #onRead: () => void;
  readonly #lanes: Promise<unknown>[] = Array.from({ length: readsAtOnce }, () => Promise.resolve());
  #pages: Page[] = [];
  #reads = 0;
  #forgetting: NodeJS.Timeout | undefined;

  constructor(source: Pick<EventSource, "readAfter" | "bounds">, onRead: () => void = () => undefined) {
    this.#source = source;
    this.#onRead = onRead;
  }

  /** Some next events after a revision, and the oldest place to resume after that there was once they had been read. */
  async after(revision: bigint): Promise<Content> {
    // Of revisions with many events a page may end before the place: then the next one begins there.
    for (let start = revision - (revision % revisionsApart); ; start = revision) {
      const page = this.#pages.find((each) => mayHold(each, revision)) ?? this.#read(start);
      const { events, oldest } = await page.content;
      const first = events.findIndex((event) => event.revision > revision);
      if (first >= 0) return { events: events.slice(first), oldest };
      if (page.start === revision) return { events: [], oldest };
    }
  }

  forget(): void {
    clearTimeout(this.#forgetting);
    this.#pages = [];
  }

  #read(start: bigint): Page {
    const lane = this.#reads++ % readsAtOnce;
    const content = (this.#lanes[lane] ?? Promise.resolve()).then(() => this.#load(start));
    const page: Page = { start, content, end: undefined };
    this.#lanes[lane] = content.then(
      ({ events }) => (page.end = events.at(-1)?.revision ?? start),
      () => this.forget(),
    );
    this.#pages = [page, ...this.#pages].slice(0, pagesKept);
    clearTimeout(this.#forgetting);
    this.#forgetting = setTimeout(() => this.forget(), keptForMs).unref();
    return page;
  }

  async #load(start: bigint): Promise<Content> {
    this.#onRead();
    const events = await this.#source.readAfter(start, eventsAPage);
    const { oldest } = await this.#source.bounds();
    return { events, oldest };
  }
}

interface Page {
  readonly start: bigint;
  readonly content: Promise<Content>;
  /** Known once it has been read. */
  end: bigint | undefined;
}

interface Content {
  readonly events: readonly Event[];
  readonly oldest: bigint;
}

function mayHold({ start, end }: Page, revision: bigint): boolean {
  return start <= revision && (end === undefined || end > revision);
}
