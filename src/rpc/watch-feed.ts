import type { Duration } from "@bufbuild/protobuf/wkt";
import type { Cursor as CursorMessage } from "../../gen/steward/v1/event_pb.ts";
import type { Cursor } from "../domain/event.ts";
import type { FeedItem, FollowOptions } from "../events/feed.ts";
import { durationFromProto } from "./convert-time.ts";
import type { Take } from "./handler.ts";
import { jittered } from "./stream-age.ts";

/** What watches need of the feed. */
export interface EventFeed {
  readonly head: bigint;
  /** Resolves once followers can see the revision. */
  reached(revision: bigint, signal: AbortSignal): Promise<void>;
  follow(options: FollowOptions): AsyncGenerator<FeedItem, void>;
  /** The same, handed on as it comes; where `take` returns a promise, nothing more before it resolves. */
  pump(options: FollowOptions, take: Take<FeedItem>): Promise<void>;
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
