import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import type { CallContext } from "./handler.ts";
import type { EventFeed } from "./watch-feed.ts";

const longestMs = 3_000;

/** How far this server has seen what was committed, whichever server it was that did it: what it answers next is true at that revision or later. */
export class SeenRevision {
  readonly #feed: Pick<EventFeed, "head" | "reached">;
  readonly #clock: Clock;

  constructor({ feed, clock }: { feed: Pick<EventFeed, "head" | "reached">; clock: Clock }) {
    this.#feed = feed;
    this.#clock = clock;
  }

  /** Waits for a revision, not for long. Throws failed_precondition REVISION_IN_FUTURE if it does not come. */
  async reached(revision: bigint, call: Pick<CallContext, "signal">): Promise<void> {
    if (revision <= this.#feed.head) return;
    // Made when somebody asks for it: most calls need none.
    const { signal } = call;
    const late = new AbortController();
    const cancel = this.#clock.after(longestMs, () => late.abort());
    try {
      await this.#feed.reached(revision, AbortSignal.any([signal, late.signal]));
    } catch (error) {
      signal.throwIfAborted();
      if (!late.signal.aborted) throw error;
      throw inFuture(revision, this.#feed.head);
    } finally {
      cancel();
    }
  }
}

function inFuture(requested: bigint, head: bigint): AppError {
  const message = `min_revision: this server has seen revision ${head}, and not ${requested} within ${longestMs} ms`;
  return new AppError("failed_precondition", "REVISION_IN_FUTURE", message, {
    metadata: { requested: String(requested), head: String(head) },
  });
}
