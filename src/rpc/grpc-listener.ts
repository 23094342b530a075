import { createServer, type Server as NetServer } from "node:net";
import { createServer as createTlsServer, type Server as TlsServer } from "node:tls";
import { type ConnectionInjector, Server, ServerCredentials } from "@grpc/grpc-js";
import { GrpcBridge } from "./grpc-bridge.ts";
import type { Limits } from "./limits.ts";
import {
  type BoundPort,
  closedWithin,
  closePort,
  type Listener,
  listen,
  type PortAddress,
  secureContext,
  type TlsMaterial,
} from "./listener.ts";
import { OpenSockets } from "./open-sockets.ts";
import type { Pipeline } from "./pipeline.ts";

export interface GrpcListenerOptions {
  readonly address: PortAddress;
  readonly pipeline: Pipeline;
  readonly limits: Limits;
  /** Without it the port is cleartext. */
  readonly tls?: TlsMaterial;
}

/** The port for gRPC alone, on grpc-js: five times the calls per second of the port that speaks everything. */
export class GrpcListener implements Listener {
  readonly #options: GrpcListenerOptions;
  readonly #grpc: Server;
  readonly #connections: ConnectionInjector;
  readonly #server: NetServer | TlsServer;
  readonly #sockets: OpenSockets;
  #bound: BoundPort | undefined;
  #closed: Promise<void> | undefined;

  constructor(options: GrpcListenerOptions) {
    const { pipeline, limits, tls } = options;
    this.#options = options;
    this.#sockets = new OpenSockets(limits);
    this.#grpc = new Server(channelOptions(limits));
    new GrpcBridge(pipeline, limits).attach(this.#grpc);
    // The port is ours, so that its certificates can change and its connections are counted like the other listener's.
    this.#connections = this.#grpc.createConnectionInjector(ServerCredentials.createInsecure());
    this.#server = tls === undefined ? this.#cleartext() : this.#secure(tls);
    this.#server.maxConnections = limits.connections;
    this.#sockets.watch(this.#server);
  }

  get bound(): BoundPort | undefined {
    return this.#bound;
  }

  get taken(): number {
    return this.#sockets.taken;
  }

  async start(): Promise<void> {
    this.#bound = await listen(this.#server, this.#options.address);
  }

  /** Takes new certificates for the connections to come. */
  reloadTls(tls: TlsMaterial): void {
    if ("setSecureContext" in this.#server) this.#server.setSecureContext(secureContext(tls));
  }

  refuse(): void {
    if (this.#closed !== undefined) return;
    this.#closed = closePort(this.#server);
    this.#connections.drain(this.#options.limits.connectionAgeGraceMs);
  }

  async stop(withinMs = 0): Promise<void> {
    this.refuse();
    await closedWithin(this.#closed, withinMs, () => this.#sockets.destroyAll());
    this.#grpc.forceShutdown();
  }

  #cleartext(): NetServer {
    return createServer({ noDelay: true }, (socket) => this.#connections.injectConnection(socket));
  }

  #secure(tls: TlsMaterial): TlsServer {
    const options = {
      ...secureContext(tls),
      ALPNProtocols: ["h2"],
      handshakeTimeout: this.#options.limits.firstByteMs,
      requestCert: tls.clientCa !== undefined,
      rejectUnauthorized: true,
    };
    return createTlsServer(options, (socket) => this.#connections.injectConnection(socket));
  }
}

function channelOptions(limits: Limits) {
  return {
    // grpc-js refuses what is over its limit without details; twice ours is left to it, the rest is refused by the bridge.
    "grpc.max_receive_message_length": 2 * limits.messageBytes,
    "grpc.max_send_message_length": -1,
    "grpc.max_concurrent_streams": limits.streamsPerConnection,
    "grpc.keepalive_time_ms": limits.pingEveryMs,
    "grpc.keepalive_timeout_ms": limits.pingTimeoutMs,
    "grpc.max_connection_age_ms": limits.connectionAgeMs,
    "grpc.max_connection_age_grace_ms": limits.connectionAgeGraceMs,
    "grpc.enable_channelz": 0,
  };
}
