import type {
  DescMessage,
  DescMethod,
  DescMethodBiDiStreaming,
  DescMethodServerStreaming,
  DescMethodUnary,
  DescService,
  Message,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import { create, toBinary } from "@bufbuild/protobuf";
import type { Principal } from "../domain/principal.ts";

/** What a handler knows of its call, the same on every listener and in every protocol. The request has passed its protovalidate rules. */
export interface CallContext {
  readonly principal: Principal;
  /** `/package.Service/Method`. */
  readonly method: string;
  /** Names this call in the log, in its events (as trace id) and in error details; also sent as the header `x-request-id`. */
  readonly callId: string;
  /** Aborts when the client goes, the deadline passes, the server is out of patience while draining, and after the call's end. */
  readonly signal: AbortSignal;
  /** The client's address. */
  readonly peer: string;
  /** What is left until the client's deadline; undefined if it set none. */
  timeoutMs(): number | undefined;
  /** SHA-256 (hex) of method and request in a canonical form: equal for equal requests, whatever their encoding and order of map entries. */
  requestHash(): string;
  /** Headers of the response; what is set after the first message of a stream is lost. */
  readonly responseHeaders: Headers;
  /** What follows the response, in the form that each protocol has for it; sent with a failure too. */
  readonly responseTrailers: Headers;
}

/** The handlers of a service: async functions for unary methods, async generators (or other async iterables) for streams. */
export type Handlers<S extends DescService> = { readonly [N in keyof S["method"]]: Handler<S["method"][N]> };

/** The handler of one method. A failure for the caller is a thrown AppError; anything else that is thrown is logged and masked as INTERNAL. */
export type Handler<M extends DescMethod> =
  M extends DescMethodUnary<infer I, infer O>
    ? UnaryHandler<I, O>
    : M extends DescMethodServerStreaming<infer I, infer O>
      ? ServerStreamingHandler<I, O>
      : M extends DescMethodBiDiStreaming<infer I, infer O>
        ? BidiStreamingHandler<I, O>
        : never;

export type UnaryHandler<I extends DescMessage, O extends DescMessage> = (
  request: MessageShape<I>,
  context: CallContext,
) => Promise<MessageInitShape<O> | Shared<O>>;

/**
 * Resources are released on `context.signal`, not only in `finally`: a generator that is parked because its client does not read is not
 * resumed before the client reads or goes.
 */
export type ServerStreamingHandler<I extends DescMessage, O extends DescMessage> = (
  request: MessageShape<I>,
  context: CallContext,
) => AsyncIterable<MessageInitShape<O> | Shared<O>> | Pump<Shared<O>>;

/** Hands messages on as they come, instead of being asked for each; resolves at the end of the stream. Ends soon after its call's signal aborts. */
export type Pump<T> = (take: Take<T>) => Promise<void>;

/** Takes one of them. If it returns a promise, there is no room for the next one before that resolves. */
export type Take<T> = (item: T) => Promise<void> | undefined;

/** Hands on several. */
export function takeAll<T>(items: readonly T[], take: Take<T>, first = 0): Promise<void> | undefined {
  let next = 0;
  for (const item of items) {
    next += 1;
    const room = next > first ? take(item) : undefined;
    if (room !== undefined) return takeRest(items, take, next, room);
  }
  return undefined;
}

// Apart, so that what it would keep is not made where there always is room.
async function takeRest<T>(items: readonly T[], take: Take<T>, first: number, room: Promise<void>): Promise<void> {
  await room;
  await takeAll(items, take, first);
}

export type BidiStreamingHandler<I extends DescMessage, O extends DescMessage> = (
  requests: AsyncIterable<MessageShape<I>>,
  context: CallContext,
) => AsyncIterable<MessageInitShape<O>>;

/**
 * One message for many calls: it is encoded once for each codec, however many clients get it. Only what is sent is kept of it, for as long as
 * somebody may need it; the message itself is made anew for the few who want to see it.
 */
export class Shared<O extends DescMessage> {
  readonly #schema: O;
  readonly #make: () => MessageInitShape<O>;
  readonly #encode: () => Uint8Array;
  readonly #frames: Partial<Record<Codec["name"], Buffer>> = {};

  /** `make` always returns the same; `encode` does so faster than by making it, where there is a way. */
  constructor(schema: O, make: () => MessageInitShape<O>, encode?: () => Uint8Array) {
    this.#schema = schema;
    this.#make = make;
    this.#encode = encode ?? (() => toBinary(schema, this.message));
  }

  get message(): MessageShape<O> {
    return create(this.#schema, this.#make());
  }

  /** As all protocols put it into a stream. */
  frame({ name, encode }: Codec): Buffer {
    this.#frames[name] ??= framed(name === "binary" ? this.#encode() : encode(this.#schema, this.message));
    return this.#frames[name];
  }
}

/** A way to write messages. Those of one name write the same. */
export interface Codec {
  readonly name: "binary" | "json";
  readonly encode: (schema: DescMessage, message: Message) => Uint8Array;
}

export const binaryCodec: Codec = { name: "binary", encode: (schema, message) => toBinary(schema, message) };

export const envelopeBytes = 5;

/** A message as it is in a stream: not compressed, its length, its bytes. */
export function framed(bytes: Uint8Array): Buffer {
  const frame = Buffer.alloc(envelopeBytes + bytes.length);
  frame.writeUInt32BE(bytes.length, 1);
  frame.set(bytes, envelopeBytes);
  return frame;
}

/** A response of some method, and what handlers answer with and streams yield: a message, or one that is shared. */
export type AnyResponse = MessageInitShape<DescMessage>;
export type StreamItem = AnyResponse | Shared<DescMessage>;

/** A service and who answers for it, as the listeners take it. */
export interface ServedService {
  readonly desc: DescService;
  /** By the local name of the method (`watchServices`). */
  readonly handlers: Readonly<Record<string, AnyHandler>>;
  /** `open`: answered without a token (health). Default: `token`. */
  readonly access: "token" | "open";
  /** The methods, by local name, whose calls wait for something to happen: they take as long as it takes. */
  readonly waiting: readonly string[];
  /** The streams, by local name, that end if their client stops reading: it can resume them, and what it does not read is only kept for it. */
  readonly watches: readonly string[];
}

/** A handler whose types were checked by `serve`: it takes its method's request and returns a promise or an async iterable of its response. */
export type AnyHandler = (request: never, context: CallContext) => object;

/** Pairs a service with its handlers; the compiler checks that none is missing and that each fits. */
export function serve<S extends DescService>(
  desc: S,
  handlers: Handlers<S>,
  {
    access = "token",
    waiting = [],
    watches = [],
  }: {
    access?: ServedService["access"];
    waiting?: readonly (keyof S["method"] & string)[];
    watches?: readonly (keyof S["method"] & string)[];
  } = {},
): ServedService {
  return { desc, handlers: handlers as ServedService["handlers"], access, waiting, watches };
}
