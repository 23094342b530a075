import type { Call } from "./call.ts";
import { within } from "./current-call.ts";
import { clientGone, type RpcError } from "./errors.ts";
import type { Pump, StreamItem, Take } from "./handler.ts";

/**
 * The messages of a streaming handler, handed on to its listener, and their end. When the call is interrupted that comes at once, even if the handler
 * is deaf to its signal; a generator is then asked to return.
 */
export class InterruptibleStream {
  readonly #call: Call;
  readonly #take: Take<StreamItem>;
  #end: ((error?: unknown) => void) | undefined;
  #iterator: AsyncIterator<StreamItem> | undefined;
  #interrupted: RpcError | undefined;

  /** `end` is called once. */
  constructor(call: Call, take: Take<StreamItem>, end: (error?: unknown) => void) {
    this.#call = call;
    this.#take = take;
    this.#end = end;
    call.whenInterrupted((error) => this.#interrupt(error));
  }

  /** To be called once; `open` runs the handler. */
  run(open: () => AsyncIterable<StreamItem> | Pump<StreamItem>): void {
    // The end too is awaited in there: who waits outside keeps a context of its own.
    within(this.#call, () => this.#start(open));
  }

  #start(open: () => AsyncIterable<StreamItem> | Pump<StreamItem>): void {
    try {
      this.#throwIfOver();
      this.#handOnAll(open()).then(
        () => this.#finish(),
        (error: unknown) => this.#finish(error),
      );
    } catch (error) {
      this.#finish(error);
    }
  }

  #handOnAll(messages: AsyncIterable<StreamItem> | Pump<StreamItem>): Promise<void> {
    return typeof messages === "function" ? messages((item) => this.#handOn(item)) : this.#iterate(messages);
  }

  async #iterate(messages: AsyncIterable<StreamItem>): Promise<void> {
    const iterator = messages[Symbol.asyncIterator]();
    this.#iterator = iterator;
    try {
      for (let result = await iterator.next(); result.done !== true; result = await iterator.next()) {
        const room = this.#handOn(result.value);
        if (room !== undefined) await room;
      }
    } catch (error) {
      this.#stop();
      throw error;
    }
  }

  #handOn(item: StreamItem): Promise<void> | undefined {
    this.#throwIfOver();
    this.#call.target.metrics.sent();
    return this.#take(item);
  }

  #throwIfOver(): void {
    if (this.#interrupted !== undefined) throw this.#interrupted;
    if (this.#call.hasEnded) throw clientGone(this.#call.callId);
  }

  #interrupt(error: RpcError): void {
    this.#interrupted = error;
    this.#finish(error);
    this.#stop();
  }

  #finish(error?: unknown): void {
    const end = this.#end;
    this.#end = undefined;
    end?.(error);
  }

  // The generator may be parked where nobody will resume it; its failure to return has no reader any more.
  #stop(): void {
    this.#iterator?.return?.().then(undefined, () => undefined);
  }
}
