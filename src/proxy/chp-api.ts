import { type ClientRequest, Agent as HttpAgent, request as httpRequest, type IncomingMessage } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import type { Clock } from "../domain/clock.ts";
import { ProxyFailure } from "./driver.ts";

export interface ChpApiOptions {
  /** `http://HOST:PORT`, `https://HOST:PORT`, `unix:/path/of/socket` or `http+unix://%2Fpath%2Fof%2Fsocket`. */
  readonly url: string;
  /** The proxy's CONFIGPROXY_AUTH_TOKEN. */
  readonly token: string;
  readonly clock: Clock;
  /** For https: what to trust and what to show. PEM. */
  readonly tls?: { readonly ca?: string; readonly cert?: string; readonly key?: string };
  /** After which a call is given up. The proxy answers some calls never. Default 5000. */
  readonly callTimeoutMs?: number;
  /** How many calls are under way at once. Default 10, as many as JupyterHub makes. */
  readonly callsInFlight?: number;
}

export interface ChpReply {
  readonly status: number;
  readonly body: string;
}

/** The REST API of a configurable-http-proxy, call by call. 403 and 5xx are ProxyFailures, so is no answer in time; every other reply is returned. */
export class ChpApi {
  readonly callsInFlight: number;
  readonly #agent: HttpAgent | HttpsAgent;
  readonly #send: (method: string, path: string, headers: Record<string, string>) => ClientRequest;
  readonly #token: string;
  readonly #clock: Clock;
  readonly #callTimeoutMs: number;

  constructor(options: ChpApiOptions) {
    const { url, tls = {} } = options;
    this.callsInFlight = options.callsInFlight ?? 10;
    this.#token = options.token;
    this.#clock = options.clock;
    this.#callTimeoutMs = options.callTimeoutMs ?? 5_000;
    const pool = { keepAlive: true, maxSockets: this.callsInFlight };
    const { secure, address } = parseApiUrl(url);
    this.#agent = secure ? new HttpsAgent({ ...pool, ...tls }) : new HttpAgent(pool);
    const start = secure ? httpsRequest : httpRequest;
    this.#send = (method, path, headers) => start({ ...address, agent: this.#agent, method, path, headers });
  }

  /** `path` goes out as it is: only plain characters, or the proxy hangs. `body` is sent as JSON. */
  async call(method: "GET" | "POST" | "DELETE", path: string, signal: AbortSignal, body?: unknown): Promise<ChpReply> {
    const reply = await this.#exchange(method, `/api/routes${path}`, signal, body);
    if (reply.status === 401 || reply.status === 403) {
      throw new ProxyFailure("PROXY_AUTH", "the proxy refuses our token");
    }
    if (reply.status >= 500) throw new ProxyFailure("PROXY_ERROR", `the proxy answers ${reply.status} to ${method}`);
    return reply;
  }

  close(): void {
    this.#agent.destroy();
  }

  #exchange(method: string, path: string, signal: AbortSignal, body: unknown): Promise<ChpReply> {
    signal.throwIfAborted();
    const text = body === undefined ? undefined : JSON.stringify(body);
    const request = this.#send(method, path, this.#headers(text));
    const { promise, resolve, reject } = Promise.withResolvers<ChpReply>();
    const end = (error: Error): void => {
      reject(asFailure(error));
      request.destroy();
    };
    const leave = (): void => end(signal.reason);
    const cancelTimeout = this.#clock.after(this.#callTimeoutMs, () => end(this.#silence(method)));
    signal.addEventListener("abort", leave);
    request.on("error", end);
    request.once("response", (response) => readReply(response, resolve, end));
    request.end(text);
    return promise.finally(() => {
      cancelTimeout();
      signal.removeEventListener("abort", leave);
    });
  }

  #headers(body: string | undefined): Record<string, string> {
    const headers = { authorization: `token ${this.#token}` };
    if (body === undefined) return headers;
    return {
      ...headers,
      "content-type": "application/json",
      "content-length": String(Buffer.byteLength(body)),
    };
  }

  #silence(method: string): ProxyFailure {
    return new ProxyFailure("PROXY_UNREACHABLE", `the proxy did not answer ${method} within ${this.#callTimeoutMs} ms`);
  }
}

function parseApiUrl(text: string): { secure: boolean; address: Record<string, string> } {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const socketPath = url === undefined ? undefined : socketPathOf(url);
  if (socketPath !== undefined) return { secure: false, address: { socketPath, host: "localhost" } };
  if (url === undefined || !/^https?:$/.test(url.protocol) || !["", "/"].includes(url.pathname)) {
    throw new TypeError("the url of the proxy's API is http://HOST:PORT, https://HOST:PORT or unix:/path/of/socket");
  }
  const secure = url.protocol === "https:";
  const host = url.hostname.replace(/^\[|\]$/g, "");
  return { secure, address: { host, port: url.port || (secure ? "443" : "80") } };
}

function socketPathOf(url: URL): string | undefined {
  const path = { "unix:": url.pathname, "http+unix:": url.host }[url.protocol];
  const decoded = path === undefined ? "" : decodeURIComponent(path);
  return decoded.startsWith("/") ? decoded : undefined;
}

function readReply(response: IncomingMessage, done: (reply: ChpReply) => void, fail: (error: Error) => void): void {
  const chunks: Buffer[] = [];
  response.on("data", (chunk: Buffer) => chunks.push(chunk));
  response.on("error", fail);
  response.once("end", () => done({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString() }));
}

function asFailure(error: Error & { code?: string }): Error {
  if (error instanceof ProxyFailure || error.name === "AbortError") return error;
  const code = error.code ?? error.name;
  const isTls = /^(ERR_TLS|ERR_SSL|EPROTO|CERT_|UNABLE_TO|SELF_SIGNED|DEPTH_ZERO)/.test(code);
  return isTls
    ? new ProxyFailure("PROXY_TLS", `TLS to the proxy's API fails: ${code}`, error)
    : new ProxyFailure("PROXY_UNREACHABLE", `the proxy's API cannot be reached: ${code}`, error);
}
