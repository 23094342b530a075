import type { Writable } from "node:stream";
import { type AnyResponse, type Codec, Shared, type StreamItem } from "./handler.ts";
import type { InterruptibleStream } from "./interruptible-stream.ts";
import type { StallTimer } from "./stalled-watch.ts";
import { StreamWriter } from "./stream-writer.ts";

export interface ConnectStreamOptions {
  readonly messages: InterruptibleStream;
  readonly response: Writable;
  readonly signal: AbortSignal;
  readonly stall: StallTimer | undefined;
  readonly codec: Codec;
  /** Larger frames are left to connect-es, to compress or to refuse. */
  readonly largestFrame: number;
  /** Heard before the first message, and at the end, good or bad. */
  readonly onBegin: () => void;
  readonly onEnd: () => void;
}

/**
 * The messages of a stream as connect-es pulls them. It sends the headers, the first message and the end; of what lies between it sees only what is
 * encoded for this stream alone. Shared messages are written past it, because encoding and framing them for each of a thousand watchers costs five
 * times as much as sending them.
 */
export class ConnectStream implements AsyncIterableIterator<AnyResponse, undefined> {
  readonly #options: ConnectStreamOptions;
  #writer: StreamWriter | undefined;
  /** What connect-es waits for. Messages come only while it waits. */
  #asked: Asked = Promise.withResolvers();
  /** Lets the messages go on that wait for connect-es. */
  #resume: (() => void) | undefined;
  /** Tells connect-es how the stream ended, when it asks again. */
  #settle: ((asked: Asked) => void) | undefined;
  #hasStarted = false;
  #hasBegun = false;

  constructor(options: ConnectStreamOptions) {
    this.#options = options;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<AnyResponse, undefined>> {
    this.#asked = Promise.withResolvers();
    if (this.#settle !== undefined) this.#settle(this.#asked);
    else if (this.#hasStarted) this.#resume?.();
    else this.#start();
    return this.#asked.promise;
  }

  async return(): Promise<IteratorResult<AnyResponse, undefined>> {
    this.#options.messages.stop();
    this.#resume?.();
    return over;
  }

  #start(): void {
    this.#hasStarted = true;
    this.#options.messages
      .pump((item) => this.#take(item))
      .then(
        () => this.#finish(({ resolve }) => resolve(over)),
        (error: unknown) => this.#finish(({ reject }) => reject(error)),
      );
  }

  #finish(settle: (asked: Asked) => void): void {
    this.#options.stall?.stop();
    this.#begin();
    this.#options.onEnd();
    this.#settle = settle;
    settle(this.#asked);
  }

  #take(item: StreamItem): Promise<void> | undefined {
    const frame = this.#hasBegun ? this.#frameOf(item) : undefined;
    if (frame !== undefined) return this.#write(frame);
    this.#begin();
    this.#asked.resolve({ done: false, value: item instanceof Shared ? item.message : item });
    // connect-es asks again when there is room for more.
    this.#options.stall?.start();
    return new Promise((resolve) => {
      this.#resume = () => {
        this.#options.stall?.stop();
        resolve();
      };
    });
  }

  #begin(): void {
    if (!this.#hasBegun) this.#options.onBegin();
    this.#hasBegun = true;
  }

  #frameOf(item: StreamItem): Buffer | undefined {
    if (!(item instanceof Shared)) return undefined;
    const { codec, largestFrame } = this.#options;
    const frame = item.frame(codec);
    return frame.length > largestFrame ? undefined : frame;
  }

  #write(frame: Buffer): Promise<void> | undefined {
    const { response, signal, stall } = this.#options;
    this.#writer ??= new StreamWriter(response, signal, stall);
    return this.#writer.write(frame);
  }
}

type Asked = PromiseWithResolvers<IteratorResult<AnyResponse, undefined>>;

const over: IteratorReturnResult<undefined> = { done: true, value: undefined };
