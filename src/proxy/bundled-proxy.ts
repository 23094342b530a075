import { randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import type { Logger } from "pino";
import type { Clock } from "../domain/clock.ts";
import { bundledProxyCommand, type ProxyListeners } from "./bundled-proxy-command.ts";
import { ProxyRun } from "./bundled-proxy-run.ts";
import { ChpApi } from "./chp-api.ts";

export interface BundledProxyOptions {
  /** Owned by us and closed to others: the socket of the proxy's API lives there. */
  readonly stateDir: string;
  readonly clock: Clock;
  readonly log: Logger;
  /** Where the public reaches the services. Default 127.0.0.1. */
  readonly publicHost?: string;
  /** Default 8000; 0: any free one, which stays the same over restarts of the proxy. */
  readonly publicPort?: number;
  /** It answers, for the first time or again: it has no routes. */
  readonly onReady?: () => void;
  /** How long it may take until it answers. Default 20 s. */
  readonly startTimeoutMs?: number;
  /** How often it is asked whether it still answers; three silences and it is replaced. Default 5 s. */
  readonly checkEveryMs?: number;
}

/** The bundled proxy cannot be started as wished. The message says what to change. */
export class BundledProxyError extends Error {
  override readonly name = "BundledProxyError";
}

/**
 * The configurable-http-proxy that is installed with us, as a child that is started again whenever it dies or stops answering, and that does not
 * outlive us. Not the way for a busy site: an external proxy also serves while Steward is away.
 */
export class BundledProxy {
  /** What the driver needs to reach its API. */
  readonly token = randomBytes(32).toString("base64url");
  readonly #options: BundledProxyOptions;
  readonly #stopping = new AbortController();
  #listeners: ProxyListeners | undefined;
  #run: ProxyRun | undefined;
  #supervising: Promise<void> = Promise.resolve();

  constructor(options: BundledProxyOptions) {
    this.#options = options;
  }

  /** Where services are reached. Known after start. */
  get publicUrl(): string {
    const { publicHost, publicPort } = this.#known();
    return `http://${publicHost.includes(":") ? `[${publicHost}]` : publicHost}:${publicPort}`;
  }

  /** Where the driver finds the API. Known after start. */
  get apiUrl(): string {
    const { api } = this.#known();
    return "socket" in api ? `unix:${encodeURI(api.socket)}` : `http://127.0.0.1:${api.port}`;
  }

  /** While it does not run none of its routes can be left. */
  get isGone(): boolean {
    return this.#run === undefined || this.#run.isEnded;
  }

  /** The process id of the run that is under way. */
  get pid(): number | undefined {
    return this.isGone ? undefined : this.#run?.pid;
  }

  /** Resolves when it serves. Throws BundledProxyError, and nothing is left, when it cannot: the port is taken, say. */
  async start(): Promise<void> {
    const { stateDir, publicHost = "127.0.0.1" } = this.#options;
    const publicPort = await availablePort(publicHost, this.#options.publicPort ?? 8_000);
    this.#listeners = { publicHost, publicPort, api: await apiListener(stateDir) };
    await this.#launch(this.#listeners);
    this.#supervising = this.#supervise(this.#listeners);
  }

  /** Ends it and with it every connection that it carries. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#run?.stop();
    await this.#supervising;
    await this.#run?.stop();
    await this.#sweep();
  }

  #known(): ProxyListeners {
    if (this.#listeners === undefined) throw new Error("the bundled proxy was not started");
    return this.#listeners;
  }

  async #supervise(listeners: ProxyListeners): Promise<void> {
    const { clock, log } = this.#options;
    const { signal } = this.#stopping;
    for (let failures = 0; !signal.aborted; ) {
      const startMs = clock.monotonicMs();
      const why = await this.#untilUseless();
      if (signal.aborted) return;
      log.warn({ why }, "the bundled proxy is started again");
      if (clock.monotonicMs() - startMs > calmMs) failures = 0;
      for (let isUp = false; !isUp && !signal.aborted; failures += 1) {
        await this.#pause(failures === 0 ? 0 : Math.min(5_000, 100 * 2 ** failures));
        if (!signal.aborted) isUp = await this.#relaunch(listeners);
      }
    }
  }

  async #relaunch(listeners: ProxyListeners): Promise<boolean> {
    try {
      await this.#launch(listeners);
      return true;
    } catch (error) {
      this.#options.log.error({ err: error }, "the bundled proxy could not be started");
      return false;
    }
  }

  async #launch(listeners: ProxyListeners): Promise<void> {
    await this.#run?.stop();
    await this.#sweep();
    const { log } = this.#options;
    const onLine = (line: string): void => log.debug({ line }, "bundled proxy");
    const run = new ProxyRun({ command: await bundledProxyCommand(listeners), token: this.token, onLine });
    this.#run = run;
    const problem = await Promise.race([
      run.ended.then((how) => `it ended: ${how}`),
      run.deaf,
      this.#untilServing(run),
    ]);
    if (problem !== undefined) {
      await run.stop();
      throw new BundledProxyError(`the bundled proxy does not serve at ${this.publicUrl}: ${problem}`);
    }
    log.info({ url: this.publicUrl, pid: run.pid }, "the bundled proxy serves");
    this.#options.onReady?.();
  }

  async #untilServing(run: ProxyRun): Promise<string | undefined> {
    const { clock, startTimeoutMs = 20_000 } = this.#options;
    const deadlineMs = clock.monotonicMs() + startTimeoutMs;
    while (!run.isEnded && !this.#stopping.signal.aborted) {
      if ((await this.#isServing()) && !run.isEnded) return undefined;
      if (clock.monotonicMs() > deadlineMs) return `no answer within ${startTimeoutMs} ms`;
      await this.#pause(25);
    }
    return "it was stopped";
  }

  async #untilUseless(): Promise<string> {
    const run = this.#run;
    const { checkEveryMs = 5_000 } = this.#options;
    let isOver = false;
    const ended = (run?.ended ?? Promise.resolve("it is gone")).finally(() => (isOver = true));
    const silent = async (): Promise<string> => {
      for (let silences = 0; silences < 3 && !isOver && !this.#stopping.signal.aborted; ) {
        await Promise.race([this.#pause(checkEveryMs), ended]);
        silences = isOver || (await this.#isServing()) ? 0 : silences + 1;
      }
      return "it does not answer";
    };
    return Promise.race([ended, silent()]);
  }

  /** Both doors: the API proves that it is ours, the public one that it has its port. */
  async #isServing(): Promise<boolean> {
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(answerTimeoutMs)]);
    const { clock } = this.#options;
    const api = new ChpApi({ url: this.apiUrl, token: this.token, clock, callTimeoutMs: answerTimeoutMs });
    try {
      await api.call("GET", "/.steward", signal);
      const health = await fetch(`${reachable(this.publicUrl)}/_chp_healthz`, { signal });
      await health.body?.cancel();
      return health.ok;
    } catch {
      return false;
    } finally {
      api.close();
    }
  }

  /** A socket that a killed run left behind would be in the next one's way. */
  async #sweep(): Promise<void> {
    const api = this.#listeners?.api;
    if (api !== undefined && "socket" in api) await rm(api.socket, { force: true });
  }

  async #pause(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const { signal } = this.#stopping;
    if (signal.aborted) return;
    const wake = (): void => resolve();
    const cancel = this.#options.clock.after(ms, wake);
    signal.addEventListener("abort", wake, { once: true });
    await promise;
    cancel();
    signal.removeEventListener("abort", wake);
  }
}

const answerTimeoutMs = 3_000;

/** After so long a life its death is the first again. */
const calmMs = 60_000;

/** The kernel takes no longer path for a unix socket. */
const longestSocketPath = 107;

async function apiListener(stateDir: string): Promise<ProxyListeners["api"]> {
  const socket = join(stateDir, "proxy.sock");
  if (Buffer.byteLength(socket) <= longestSocketPath) return { socket };
  return { port: await listenOnce("127.0.0.1", 0) };
}

function reachable(publicUrl: string): string {
  return publicUrl.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:");
}

/** The proxy itself keeps running without a listener when its port is taken, another one there may answer in its place, and 0 is 8000 to it. */
async function availablePort(host: string, port: number): Promise<number> {
  try {
    return await listenOnce(host, port);
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : String(cause);
    const why = code === "EADDRINUSE" ? "the port is already in use" : code;
    throw new BundledProxyError(`the bundled proxy cannot listen at ${host}:${port}: ${why}`, { cause });
  }
}

function listenOnce(host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen({ host, port, exclusive: true }, () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : port));
    });
  });
}
