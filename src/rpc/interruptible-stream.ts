import type { Call } from "./call.ts";
import { within } from "./current-call.ts";
import { clientGone, type RpcError } from "./errors.ts";
import { type AnyResponse, Shared, type StreamItem } from "./handler.ts";

/**
 * The messages of a streaming handler, as its listener pulls them. When the call is interrupted the pending pull rejects at once, even if
 * the handler is deaf to its signal; the handler is then asked to return.
 */
export class InterruptibleStream implements AsyncIterableIterator<StreamItem, undefined> {
  readonly #call: Call;
  readonly #fail: (error: unknown) => RpcError;
  readonly #open: () => AsyncIterable<StreamItem>;
  #messages: AsyncIterator<StreamItem> | undefined;
  #reject: ((error: RpcError) => void) | undefined;
  #interrupted: RpcError | undefined;
  #isOver = false;

  constructor(call: Call, fail: (error: unknown) => RpcError, open: () => AsyncIterable<StreamItem>) {
    this.#call = call;
    this.#fail = fail;
    this.#open = open;
    call.whenInterrupted((error) => this.#interrupt(error));
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<StreamItem, undefined>> {
    return new Promise((resolve, reject) => {
      const rejectWith = (error: unknown) => {
        this.#reject = undefined;
        reject(this.#close(error));
      };
      if (this.#interrupted !== undefined) return rejectWith(this.#interrupted);
      if (this.#isOver) return resolve(over);
      this.#reject = rejectWith;
      try {
        within(this.#call, () => this.#iterator().next()).then((result) => resolve(this.#received(result)), rejectWith);
      } catch (error) {
        rejectWith(error);
      }
    });
  }

  async return(): Promise<IteratorResult<StreamItem, undefined>> {
    this.#isOver = true;
    await this.#messages?.return?.();
    return over;
  }

  #iterator(): AsyncIterator<StreamItem> {
    if (this.#call.hasEnded) throw clientGone(this.#call.callId);
    this.#messages ??= this.#open()[Symbol.asyncIterator]();
    return this.#messages;
  }

  #received(result: IteratorResult<StreamItem>): IteratorResult<StreamItem, undefined> {
    this.#reject = undefined;
    if (result.done === true) {
      this.#isOver = true;
      return over;
    }
    this.#call.target.metrics.sent();
    return result;
  }

  #interrupt(error: RpcError): void {
    this.#interrupted = error;
    this.#reject?.(error);
    // The generator may be parked at a yield that nobody will resume; its failure to return has no reader any more.
    this.#messages?.return?.().then(undefined, () => undefined);
  }

  #close(error: unknown): RpcError {
    this.#isOver = true;
    return this.#fail(error);
  }
}

const over: IteratorReturnResult<undefined> = { done: true, value: undefined };

/** The plain messages of a stream, for a listener that encodes each itself. It hears of the first message, and of the end, good or bad. */
export function unwrapShared(
  stream: InterruptibleStream,
  { beforeFirst, atEnd }: { readonly beforeFirst: () => void; readonly atEnd: () => void },
): AsyncIterableIterator<AnyResponse> {
  let isFirst = true;
  const hear = (isEnd: boolean) => {
    if (isFirst) beforeFirst();
    isFirst = false;
    if (isEnd) atEnd();
  };
  const unwrap = (result: IteratorResult<StreamItem, undefined>): IteratorResult<AnyResponse, undefined> => {
    hear(result.done === true);
    if (result.done === true) return result;
    const item = result.value;
    return { done: false, value: item instanceof Shared ? item.message : item };
  };
  const failed = (error: unknown): never => {
    hear(true);
    throw error;
  };
  return {
    next: () => stream.next().then(unwrap, failed),
    return: async () => {
      await stream.return();
      return over;
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}
