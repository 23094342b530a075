import { setTimeout as delay } from "node:timers/promises";
import { type CallOptions, Code, ConnectError } from "@connectrpc/connect";
import { ErrorReason } from "../../gen/steward/v1/error_pb.ts";
import { type StewardError, stewardErrorOf } from "./errors.ts";

export interface WatchOptions {
  /** Ends the watch. */
  readonly signal?: AbortSignal;
  /** Told of every end of a stream that the watch survives, before it waits for `delayMs` and opens the next. */
  readonly onInterrupted?: (error: StewardError, delayMs: number) => void;
}

interface ResumeOptions extends WatchOptions {
  /** Whether a stream that ends without an error is at its end for good. Default: that is a broken connection too. */
  readonly mayEnd?: boolean;
}

/** What comes of one stream after another. */
export type ResumedItem<M> =
  | { readonly kind: "message"; readonly message: M }
  | { readonly kind: "interrupted"; readonly error: StewardError };

/**
 * Opens a stream, and the next one after each that ended for a reason that passes or that `open` can act on: it is asked to begin where the last
 * one left off. Ends when the signal aborts.
 */
export async function* resumed<M>(
  open: (call: CallOptions) => AsyncIterable<M>,
  { signal, onInterrupted, mayEnd = false }: ResumeOptions,
): AsyncGenerator<ResumedItem<M>, void> {
  const isOver = () => signal?.aborted === true;
  for (let failures = 0; !isOver(); failures++) {
    let stood = false;
    try {
      for await (const message of open(signal === undefined ? {} : { signal })) {
        stood = true;
        yield { kind: "message", message };
      }
      if (mayEnd) return;
      throw new ConnectError("the stream ended without a word", Code.Unavailable);
    } catch (thrown) {
      if (isOver()) return;
      const error = stewardErrorOf(thrown);
      if (!isPassing(error, stood) && !isPlaceLost(error)) throw error;
      if (stood) failures = 0;
      const delayMs = delayAfter(error, failures);
      yield { kind: "interrupted", error };
      onInterrupted?.(error, delayMs);
      await delay(delayMs, undefined, { signal }).catch(() => undefined);
    }
  }
}

/** What happened since cannot be told any more: the cursor is too old, or of another store. */
export function isPlaceLost({ reason }: StewardError): boolean {
  return reason === ErrorReason.REVISION_COMPACTED || reason === ErrorReason.STORE_CHANGED;
}

function isPassing({ code, reason }: StewardError, stood: boolean): boolean {
  switch (code) {
    // The token may have been replaced while the stream stood: the next one tells.
    case Code.Unauthenticated:
      return stood;
    case Code.PermissionDenied:
    case Code.Unimplemented:
    case Code.NotFound:
    case Code.AlreadyExists:
      return false;
    // Said by Steward they last; a broken connection may look like them.
    case Code.InvalidArgument:
    case Code.FailedPrecondition:
    case Code.OutOfRange:
      return reason === ErrorReason.UNSPECIFIED;
    default:
      return true;
  }
}

const firstDelayMs = 250;
const longestDelayMs = 10_000;

/** Somewhere below a bound that doubles with each failure in a row, so that the watchers of a restarted server do not all come at once. */
function delayAfter({ retryDelayMs = 0 }: StewardError, failures: number): number {
  return Math.max(retryDelayMs, Math.random() * Math.min(longestDelayMs, firstDelayMs * 2 ** failures));
}
