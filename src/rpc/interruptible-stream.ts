import type { Call } from "./call.ts";
import { within } from "./current-call.ts";
import { clientGone, type RpcError } from "./errors.ts";
import type { Pump, StreamItem } from "./handler.ts";

/** Where the messages of a stream go, as its listener has it. */
export interface Outlet {
  /** Sends a message. If it returns a promise, there is no room for the next one before that resolves. */
  write(item: StreamItem): Promise<void> | undefined;
  /** Told once, at the end. */
  end(error?: RpcError): void;
}

/**
 * The messages of a streaming handler, handed on to its listener, and their end. When the call is interrupted that comes at once, even if the handler
 * is deaf to its signal; a generator is then asked to return.
 */
export class InterruptibleStream {
  readonly #call: Call;
  readonly #outlet: Outlet;
  readonly #fail: (call: Call, error: unknown) => RpcError;
  #iterator: AsyncIterator<StreamItem> | undefined;
  #interrupted: RpcError | undefined;
  #isFinished = false;

  /** `fail` says what the client is told of a failure. */
  constructor(call: Call, outlet: Outlet, fail: (call: Call, error: unknown) => RpcError) {
    this.#call = call;
    this.#outlet = outlet;
    this.#fail = fail;
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
    return this.#outlet.write(item);
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
    if (this.#isFinished) return;
    this.#isFinished = true;
    this.#outlet.end(error === undefined ? undefined : this.#fail(this.#call, error));
  }

  // The generator may be parked where nobody will resume it; its failure to return has no reader any more.
  #stop(): void {
    this.#iterator?.return?.().then(undefined, () => undefined);
  }
}
