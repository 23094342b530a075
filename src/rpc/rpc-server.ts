import { setTimeout as delay } from "node:timers/promises";
import type { DescService } from "@bufbuild/protobuf";
import type { Logger } from "pino";
import { AppError } from "../domain/errors.ts";
import { ConnectListener } from "./connect-listener.ts";
import { Cors } from "./cors.ts";
import { type Authenticate, type AuthenticateCertificate, Gate } from "./gate.ts";
import { GrpcListener } from "./grpc-listener.ts";
import type { ServedService } from "./handler.ts";
import { Health } from "./health.ts";
import { defaultLimits, type Limits } from "./limits.ts";
import {
  type BoundPort,
  type Listener,
  type PortAddress,
  type SocketAddress,
  type TlsMaterial,
  takeWaiting,
} from "./listener.ts";
import { Metrics } from "./metrics.ts";
import { type HttpHandler, pages } from "./pages.ts";
import { Pipeline } from "./pipeline.ts";
import { reflection } from "./reflection.ts";

export interface RpcServerOptions {
  readonly services: readonly ServedService[];
  readonly authenticate: Authenticate;
  /** The port that speaks everything, and the port for gRPC alone. Absent: not opened. */
  readonly connect?: PortAddress;
  readonly grpc?: PortAddress;
  /** A socket that speaks everything, for clients on this host; never TLS. */
  readonly local?: SocketAddress;
  /** For both ports. */
  readonly tls?: TlsMaterial;
  /** Tells whose certificate a client showed when it sends no token. Absent: certificates let nobody do anything. */
  readonly authenticateCertificate?: AuthenticateCertificate;
  /** The web pages that may call the Connect port from a browser, such as `https://example.org`. Default: none. */
  readonly corsOrigins?: readonly string[];
  readonly reflection: "off" | "token" | "open";
  /** Why the server cannot serve now; asked by /readyz. */
  readonly unready?: () => string | undefined;
  /** Answers plain HTTP requests on the Connect port that are not ours. */
  readonly fallback?: HttpHandler;
  readonly limits?: Partial<Limits>;
  readonly drain?: Partial<DrainTimes>;
  /** Ends the calls that only wait for something: they could hold up the drain for all its time. */
  readonly endWaits?: () => void;
  readonly metrics?: Metrics;
  /** From what time on a call is slow, so that the log tells of it. Default 0: none is. */
  readonly slowCallMs?: number;
  readonly log: Logger;
}

export interface DrainTimes {
  /** How long the server still takes calls after it has said that it goes, so that load balancers notice. */
  readonly noticeMs: number;
  /** How long calls in flight may take. */
  readonly graceMs: number;
}

const defaultDrain: DrainTimes = { noticeMs: 0, graceMs: 10_000 };
const recheckEveryMs = 15_000;
const flushMs = 1000;

/** The door of Steward: both listeners over one pipeline, with health, reflection and metrics, and the order in which they open and close. */
export class RpcServer {
  readonly metrics: Metrics;
  readonly #health: Health;
  readonly #pipeline: Pipeline;
  readonly #connect: ConnectListener | undefined;
  readonly #grpc: GrpcListener | undefined;
  readonly #local: ConnectListener | undefined;
  readonly #drain: DrainTimes;
  readonly #endWaits: () => void;
  #recheck: NodeJS.Timeout | undefined;
  #hasStarted = false;
  #state: "starting" | "open" | "draining" = "starting";
  #stopped: Promise<void> | undefined;

  constructor(options: RpcServerOptions) {
    const limits = { ...defaultLimits, ...options.limits };
    this.metrics = options.metrics ?? new Metrics();
    this.#drain = { ...defaultDrain, ...options.drain };
    this.#endWaits = options.endWaits ?? (() => undefined);
    this.#health = new Health(options.services.map(({ desc }) => desc.typeName));
    const { log, slowCallMs = 0 } = options;
    const services = [...options.services, this.#health.service, ...reflected(options, this.#health.service.desc)];
    const gate = new Gate(options);
    this.#pipeline = new Pipeline({ services, gate, limits, metrics: this.metrics, log, slowCallMs });
    this.#pipeline.refuseNewCalls(starting);
    const shared = { pipeline: this.#pipeline, limits };
    const secured = { ...shared, ...(options.tls === undefined ? {} : { tls: options.tls }) };
    const web = { pages: this.#pages(options), cors: new Cors(options.corsOrigins ?? []), log };
    if (options.grpc !== undefined) this.#grpc = new GrpcListener({ ...secured, address: options.grpc });
    if (options.connect !== undefined)
      this.#connect = new ConnectListener({ ...secured, ...web, address: options.connect });
    if (options.local !== undefined) this.#local = new ConnectListener({ ...shared, ...web, address: options.local });
  }

  /**
   * Resolves when every port listens, so that its number is known; calls are refused as UNAVAILABLE until `open`. Rejects if a port cannot be
   * opened, with none left open.
   */
  async start(): Promise<void> {
    try {
      for (const listener of this.#listeners()) await listener.start();
    } catch (error) {
      await this.stop();
      throw error;
    }
    this.#recheck = setInterval(() => this.recheckStreams(), recheckEveryMs).unref();
    this.#hasStarted = true;
  }

  /** Takes calls from now on and says so. */
  open(): void {
    if (this.#state !== "starting") return;
    this.#state = "open";
    this.#pipeline.refuseNewCalls(undefined);
    this.#health.setServing(true);
  }

  /** Drains and resolves when every connection is closed: says so, refuses, ends the streams, waits for the rest, cuts what is left. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  get connectAddress(): BoundPort | undefined {
    return this.#connect?.bound;
  }

  get grpcAddress(): BoundPort | undefined {
    return this.#grpc?.bound;
  }

  /** Looks at the tokens of open streams again; to be called when tokens or rights changed. Also done every 15 s, for those that expire. */
  recheckStreams(): void {
    this.#pipeline.recheckStreams();
  }

  /** Takes new certificates for the connections to come. */
  reloadTls(tls: TlsMaterial): void {
    this.#connect?.reloadTls(tls);
    this.#grpc?.reloadTls(tls);
  }

  async #stop(): Promise<void> {
    clearInterval(this.#recheck);
    this.#state = "draining";
    this.#health.drain();
    if (this.#hasStarted) await delay(this.#drain.noticeMs);
    await takeWaiting(this.#listeners());
    this.#pipeline.refuseNewCalls(draining);
    for (const listener of this.#listeners()) listener.refuse();
    this.#endWaits();
    await this.#pipeline.interruptStreams(draining);
    await this.#pipeline.settled(this.#drain.graceMs);
    this.#pipeline.interruptAll(draining);
    await Promise.all(this.#listeners().map((listener) => listener.stop(flushMs)));
  }

  #listeners(): Listener[] {
    return [this.#grpc, this.#connect, this.#local].filter((listener) => listener !== undefined);
  }

  #pages({ unready, fallback }: RpcServerOptions): HttpHandler {
    return pages({
      unready: () => (this.#state === "open" ? unready?.() : this.#state),
      metrics: this.metrics.registry,
      ...(fallback === undefined ? {} : { fallback }),
    });
  }
}

const starting = new AppError("unavailable", "SERVER_DRAINING", "the server is still starting; try again", {
  retryAfterMs: 500,
});
const draining = new AppError("unavailable", "SERVER_DRAINING", "the server stops; try again elsewhere or later", {
  retryAfterMs: 1000,
});

function reflected({ services, reflection: access }: RpcServerOptions, health: DescService): ServedService[] {
  return access === "off" ? [] : reflection([...services.map(({ desc }) => desc), health], access);
}
