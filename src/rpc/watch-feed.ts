import type { Duration } from "@bufbuild/protobuf/wkt";
import type { Cursor as CursorMessage } from "../../gen/steward/v1/event_pb.ts";
import type { Cursor, Event } from "../domain/event.ts";
import type { FeedItem } from "../events/feed.ts";
import { durationFromProto } from "./convert-time.ts";
import { jittered } from "./stream-age.ts";

/** What watches need of the feed. */
export interface EventFeed {
  readonly head: bigint;
  /** Resolves once followers can see the revision. */
  reached(revision: bigint, signal: AbortSignal): Promise<void>;
  follow(options: {
    readonly after: Cursor | undefined;
    readonly select?: (events: readonly Event[]) => readonly Event[];
    readonly progressIntervalMs?: number;
    /** Who follows, as the metrics name it. */
    readonly follower?: string;
    readonly signal: AbortSignal;
  }): AsyncGenerator<FeedItem, void>;
}

export function cursorFromProto(cursor: CursorMessage | undefined): Cursor | undefined {
  return cursor === undefined ? undefined : { storeUid: cursor.storeUid, revision: cursor.revision };
}

export function openedToProto(item: FeedItem & { kind: "opened" }): {
  head: bigint;
  oldest: bigint;
  progressIntervalMs: bigint;
} {
  const { head, oldest, progressIntervalMs } = item;
  return { head, oldest, progressIntervalMs: BigInt(progressIntervalMs) };
}

const defaultProgressMs = 30_000;
const shortestProgressMs = 1_000;
const longestProgressMs = 300_000;

/** How often to tell of progress: as asked, within 1 s to 5 min, give or take a tenth. */
export function progressIntervalOf(asked: Duration | undefined): number {
  const wanted = durationFromProto(asked) ?? defaultProgressMs;
  return jittered(Math.min(Math.max(wanted, shortestProgressMs), longestProgressMs));
}
