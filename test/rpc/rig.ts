import { type Client, ConnectError, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { type Logger, pino } from "pino";
import { ServiceRegistry } from "../../gen/steward/v1/service_registry_pb.ts";
import { AppError, serviceNotFound } from "../../src/domain/errors.ts";
import type { Principal } from "../../src/domain/principal.ts";
import { currentCall } from "../../src/rpc/current-call.ts";
import { type CallContext, type Handlers, serve } from "../../src/rpc/handler.ts";
import { RpcServer, type RpcServerOptions } from "../../src/rpc/rpc-server.ts";

/** A real server on free ports with a registry that holds nothing but what the test puts into its handlers. */
export interface Rig extends AsyncDisposable {
  readonly server: RpcServer;
  readonly connectPort: number;
  readonly grpcPort: number;
  /** What was logged, one object a line. */
  readonly log: Record<string, unknown>[];
  /** The contexts of all calls that reached a handler. */
  readonly calls: CallContext[];
}

export type RegistryHandlers = Handlers<typeof ServiceRegistry>;

export const goodSecret = "sts_0123456789abcdefghijklmnopqrst";

const operator: Principal = {
  kind: "operator",
  name: "operator",
  serviceUid: undefined,
  tokenId: "t1",
  tokenExpireTime: undefined,
  scopes: ["*"],
};

/** Knows one secret. */
export function authenticate(secret: string): Principal {
  if (secret === goodSecret) return operator;
  throw new AppError("unauthenticated", "TOKEN_INVALID", "no such token");
}

export async function startRig(
  handlers: Partial<RegistryHandlers> = {},
  { isWatch = true, ...options }: Partial<RpcServerOptions> & { isWatch?: boolean } = {},
): Promise<Rig> {
  const log: Record<string, unknown>[] = [];
  const calls: CallContext[] = [];
  const server = new RpcServer({
    services: [
      serve(ServiceRegistry, recorded({ ...emptyRegistry(), ...handlers }, calls), {
        watches: isWatch ? ["watchServices"] : [],
      }),
    ],
    authenticate,
    connect: { port: 0 },
    grpc: { port: 0 },
    reflection: "token",
    drain: { noticeMs: 0, graceMs: 2000 },
    log: loggerTo(log, "info"),
    ...options,
  });
  await server.start();
  server.open();
  return {
    server,
    connectPort: server.connectAddress?.port ?? 0,
    grpcPort: server.grpcAddress?.port ?? 0,
    log,
    calls,
    [Symbol.asyncDispose]: () => server.stop(),
  };
}

/** A logger as the server has it, whose lines go to an array. */
export function loggerTo(lines: Record<string, unknown>[], level: string): Logger {
  return pino({ level, mixin: currentCall }, { write: (line: string) => lines.push(JSON.parse(line)) });
}

/** Calls that have begun and not ended, streams included. */
export async function openCalls(rig: Rig): Promise<number> {
  const gauge = await rig.server.metrics.registry.getSingleMetric("steward_rpc_open_calls")?.get();
  return gauge?.values.reduce((sum, { value }) => sum + value, 0) ?? -1;
}

/** Every way in which a client can talk to the server. */
export const transportNames = ["Connect JSON", "Connect protobuf", "gRPC-Web", "gRPC", "gRPC on grpc-js"] as const;
export type TransportName = (typeof transportNames)[number];

export function transportOf(rig: Rig, name: TransportName, secret: string = goodSecret): Transport {
  const interceptors = secret === "" ? [] : [bearer(secret)];
  const baseUrl = `http://127.0.0.1:${name === "gRPC on grpc-js" ? rig.grpcPort : rig.connectPort}`;
  switch (name) {
    case "Connect JSON":
      return createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: false, interceptors });
    case "Connect protobuf":
      return createConnectTransport({ baseUrl, httpVersion: "2", useBinaryFormat: true, interceptors });
    case "gRPC-Web":
      return createGrpcWebTransport({ baseUrl, httpVersion: "1.1", interceptors });
    case "gRPC":
    case "gRPC on grpc-js":
      return createGrpcTransport({ baseUrl, interceptors });
  }
}

export function registryClient(
  rig: Rig,
  name: TransportName,
  secret: string = goodSecret,
): Client<typeof ServiceRegistry> {
  return createClient(ServiceRegistry, transportOf(rig, name, secret));
}

function bearer(secret: string): Interceptor {
  return (next) => (request) => {
    request.header.set("Authorization", `Bearer ${secret}`);
    return next(request);
  };
}

function emptyRegistry(): RegistryHandlers {
  const missing = async (): Promise<never> => {
    throw new AppError("unimplemented", "METHOD_UNKNOWN", "not in this test");
  };
  return {
    create: missing,
    get: async ({ name }) => {
      throw serviceNotFound(name);
    },
    list: async () => ({ services: [], revision: 7n }),
    update: missing,
    delete: missing,
    apply: missing,
    listRevisions: missing,
    rollback: missing,
    async *watchServices() {},
    issueToken: missing,
    listTokens: missing,
    rotateToken: missing,
    revokeToken: missing,
    whoAmI: missing,
  };
}

function recorded(handlers: RegistryHandlers, calls: CallContext[]): RegistryHandlers {
  const record = <T extends (request: never, context: CallContext) => unknown>(handler: T) =>
    ((request: never, context: CallContext) => {
      calls.push(context);
      return handler(request, context);
    }) as T;
  return Object.fromEntries(
    Object.entries(handlers).map(([name, handler]) => [name, record(handler)]),
  ) as RegistryHandlers;
}

/** How a call failed, which it shall. */
export async function failureOf(outcome: Promise<unknown>): Promise<ConnectError> {
  const error = await outcome.then(
    () => undefined,
    (reason: unknown) => ConnectError.from(reason),
  );
  if (error === undefined) throw new Error("the call succeeded");
  return error;
}
