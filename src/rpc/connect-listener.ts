import { createServer as createHttp1, type Server as Http1Server } from "node:http";
import { createServer as createHttp2, createSecureServer, type Http2SecureServer } from "node:http2";
import type { Logger } from "pino";
import { shareCleartextPort } from "./cleartext-port.ts";
import { ConnectAdapter } from "./connect-adapter.ts";
import type { Cors } from "./cors.ts";
import { Http2Sessions } from "./http2-sessions.ts";
import type { Limits } from "./limits.ts";
import {
  type Address,
  type BoundPort,
  closedWithin,
  closePort,
  type Listener,
  listen,
  secureContext,
  type TlsMaterial,
} from "./listener.ts";
import { OpenSockets } from "./open-sockets.ts";
import type { HttpHandler } from "./pages.ts";
import type { Pipeline } from "./pipeline.ts";

export interface ConnectListenerOptions {
  readonly address: Address;
  readonly pipeline: Pipeline;
  readonly limits: Limits;
  readonly pages: HttpHandler;
  readonly cors: Cors;
  readonly log: Logger;
  /** Without it the port is cleartext. */
  readonly tls?: TlsMaterial;
}

/** The port that speaks everything: Connect, gRPC-Web and gRPC over HTTP/1.1 and HTTP/2, and plain pages. */
export class ConnectListener implements Listener {
  readonly #options: ConnectListenerOptions;
  readonly #adapter: ConnectAdapter;
  readonly #sessions: Http2Sessions;
  readonly #sockets: OpenSockets;
  readonly #server: Http1Server | Http2SecureServer;
  #bound: BoundPort | undefined;
  #closed: Promise<void> | undefined;

  constructor(options: ConnectListenerOptions) {
    this.#options = options;
    this.#adapter = new ConnectAdapter(options);
    this.#sessions = new Http2Sessions(options.limits);
    this.#sockets = new OpenSockets(options.limits);
    this.#server = options.tls === undefined ? this.#cleartext() : this.#secure(options.tls);
    this.#server.maxConnections = options.limits.connections;
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
    this.#closed ??= closePort(this.#server);
    this.#adapter.closeConnections();
    this.#sessions.closeAll();
  }

  async stop(withinMs = 0): Promise<void> {
    this.refuse();
    const idle = setTimeout(() => this.#closeIdle(), nextRequestMs);
    await closedWithin(this.#closed, withinMs, () => {
      this.#sessions.destroyAll();
      this.#sockets.destroyAll();
    });
    clearTimeout(idle);
    this.#server.close();
  }

  #closeIdle(): void {
    // A request that has arrived by now is read first.
    setImmediate(() => this.#server.close());
  }

  #cleartext(): Http1Server {
    const { limits } = this.#options;
    const http1 = createHttp1(http1Options(limits), this.#adapter.handle);
    const http2 = createHttp2(http2Options(limits), this.#adapter.handle);
    http2.on("session", (session) => this.#sessions.adopt(session));
    shareCleartextPort(http1, http2, limits.firstByteMs);
    return http1;
  }

  #secure(tls: TlsMaterial): Http2SecureServer {
    const { limits } = this.#options;
    const server = createSecureServer(
      {
        ...http1Options(limits),
        ...http2Options(limits),
        ...secureContext(tls),
        allowHTTP1: true,
        handshakeTimeout: limits.firstByteMs,
        requestCert: tls.clientCa !== undefined,
        rejectUnauthorized: true,
      },
      this.#adapter.handle,
    );
    return server.on("session", (session) => this.#sessions.adopt(session));
  }
}

// An idle connection of HTTP/1.1 that is closed under a request looks to its client like a failure, where an answer tells it to go elsewhere. This is
// many times what a client needs that goes on at once when a stream of its has ended, on a host that has much to do.
const nextRequestMs = 500;

function http1Options(limits: Limits) {
  return {
    headersTimeout: limits.headersMs,
    requestTimeout: limits.requestMs,
    keepAliveTimeout: limits.keepAliveMs,
    connectionsCheckingInterval: Math.min(limits.headersMs, 5000),
  };
}

function http2Options(limits: Limits) {
  return {
    settings: { maxConcurrentStreams: limits.streamsPerConnection, initialWindowSize: 256 * 1024 },
    maxSessionMemory: limits.sessionMemoryMb,
    maxSessionInvalidFrames: 100,
    // A client that opens and resets streams faster than this is not working (CVE-2023-44487).
    streamResetBurst: 1000,
    streamResetRate: 100,
  };
}
