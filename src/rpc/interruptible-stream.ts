import type { Call } from "./call.ts";
import { within } from "./current-call.ts";
import { clientGone, type RpcError } from "./errors.ts";
import type { Pump, StreamItem, Take } from "./handler.ts";

/**
 * The messages of a streaming handler, handed on to its listener. When the call is interrupted that ends at once, even if the handler is deaf to
 * its signal; a generator is then asked to return.
 */
export class InterruptibleStream {
  readonly #call: Call;
  readonly #fail: (error: unknown) => RpcError;
  readonly #open: () => AsyncIterable<StreamItem> | Pump<StreamItem>;
  #iterator: AsyncIterator<StreamItem> | undefined;
  #reject: ((error: RpcError) => void) | undefined;
  #interrupted: RpcError | undefined;

  constructor(
    call: Call,
    fail: (error: unknown) => RpcError,
    open: () => AsyncIterable<StreamItem> | Pump<StreamItem>,
  ) {
    this.#call = call;
    this.#fail = fail;
    this.#open = open;
    call.whenInterrupted((error) => this.#interrupt(error));
  }

  /** Resolves at the end of the stream; rejects with RpcError only. To be called once. */
  pump(take: Take<StreamItem>): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#reject = (error) => reject(this.#fail(error));
      this.#run((item) => this.#handOn(item, take)).then(resolve, (error: unknown) => reject(this.#fail(error)));
    });
  }

  /** Nobody wants the rest. */
  stop(): void {
    // The generator may be parked where nobody will resume it; its failure to return has no reader any more.
    this.#iterator?.return?.().then(undefined, () => undefined);
  }

  async #run(take: Take<StreamItem>): Promise<void> {
    this.#throwIfOver();
    const messages = within(this.#call, this.#open);
    if (typeof messages === "function") return await within(this.#call, () => messages(take));
    const iterator = messages[Symbol.asyncIterator]();
    this.#iterator = iterator;
    try {
      const next = () => within(this.#call, () => iterator.next());
      for (let result = await next(); result.done !== true; result = await next()) {
        const room = take(result.value);
        if (room !== undefined) await room;
      }
    } catch (error) {
      this.stop();
      throw error;
    }
  }

  #handOn(item: StreamItem, take: Take<StreamItem>): Promise<void> | undefined {
    this.#throwIfOver();
    this.#call.target.metrics.sent();
    return take(item);
  }

  #throwIfOver(): void {
    if (this.#interrupted !== undefined) throw this.#interrupted;
    if (this.#call.hasEnded) throw clientGone(this.#call.callId);
  }

  #interrupt(error: RpcError): void {
    this.#interrupted = error;
    this.#reject?.(error);
    this.stop();
  }
}
