import type { DescMessage, DescMethodStreaming, DescMethodUnary } from "@bufbuild/protobuf";
import {
  create,
  type DescMethod,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import {
  type Code,
  ConnectError,
  type ContextValues,
  type StreamResponse,
  type Transport,
  type UnaryResponse,
} from "@connectrpc/connect";
import { Client, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import { StatusSchema } from "../../gen/google/rpc/status_pb.ts";

type HeaderInit = ConstructorParameters<typeof Headers>[0];

/**
 * The stock client of grpc-js in the form of a Connect transport, so that one suite runs over both: codecs from the generated descriptors,
 * errors with the details of `grpc-status-details-bin`, nothing of Steward's own code.
 */
export class GrpcJsTransport implements Transport {
  readonly #client: Client;
  readonly #headers: Readonly<Record<string, string>>;

  constructor(address: string, headers: Readonly<Record<string, string>> = {}) {
    this.#client = new Client(new URL(address).host, credentials.createInsecure());
    this.#headers = headers;
  }

  close(): void {
    this.#client.close();
  }

  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeaderInit,
    input: MessageInitShape<I>,
    _contextValues?: ContextValues,
  ): Promise<UnaryResponse<I, O>> {
    return new Promise((resolve, reject) => {
      const { path, encode, decode } = codecOf(method);
      const call = this.#client.makeUnaryRequest(
        ...([
          path,
          encode,
          decode,
          create(method.input, input),
          this.#metadata(header),
          deadlineOf(timeoutMs),
        ] as const),
        (error, message) => {
          if (error !== null || message === undefined) return reject(connectError(error));
          resolve({
            ...{ stream: false, service: method.parent, method, header: new Headers(), trailer: new Headers() },
            message,
          });
        },
      );
      signal?.addEventListener("abort", () => call.cancel(), { once: true });
    });
  }

  async stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeaderInit,
    input: AsyncIterable<MessageInitShape<I>>,
    _contextValues?: ContextValues,
  ): Promise<StreamResponse<I, O>> {
    const { path, encode, decode } = codecOf(method);
    const first = await firstOf(input);
    const call = this.#client.makeServerStreamRequest(
      ...([path, encode, decode, create(method.input, first), this.#metadata(header), deadlineOf(timeoutMs)] as const),
    );
    signal?.addEventListener("abort", () => call.cancel(), { once: true });
    return {
      ...{ stream: true, service: method.parent, method, header: new Headers(), trailer: new Headers() },
      message: received(call),
    };
  }

  #metadata(header: HeaderInit): Metadata {
    const metadata = new Metadata();
    for (const [name, value] of Object.entries(this.#headers)) metadata.set(name, value);
    for (const [name, value] of new Headers(header)) metadata.set(name, value);
    return metadata;
  }
}

async function firstOf<T>(messages: AsyncIterable<T>): Promise<T | undefined> {
  for await (const message of messages) return message;
  return undefined;
}

async function* received<T>(call: AsyncIterable<T>): AsyncGenerator<T> {
  try {
    yield* call;
  } catch (error) {
    throw connectError(error);
  }
}

function codecOf<I extends DescMessage, O extends DescMessage>(method: DescMethod & { input: I; output: O }) {
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    encode: (message: MessageShape<I>) => Buffer.from(toBinary(method.input, message)),
    decode: (bytes: Buffer): MessageShape<O> => fromBinary(method.output, bytes),
  };
}

function deadlineOf(timeoutMs: number | undefined): { deadline?: number } {
  return timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
}

function connectError(error: unknown): unknown {
  if (!isServiceError(error)) return error;
  const connect = new ConnectError(error.details, error.code as number as Code, undefined, undefined, error);
  const [status] = error.metadata.get("grpc-status-details-bin");
  if (status instanceof Buffer) {
    for (const { typeUrl, value } of fromBinary(StatusSchema, status).details) {
      connect.details.push({ type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1), value });
    }
  }
  return connect;
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "metadata" in error && "code" in error && "details" in error;
}
