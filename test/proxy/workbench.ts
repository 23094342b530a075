import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, request, type Server } from "node:http";
import { createRequire } from "node:module";
import { type AddressInfo, createServer as createTcpServer, type Socket } from "node:net";
import { join } from "node:path";
import { text as readText } from "node:stream/consumers";
import { setTimeout as delay } from "node:timers/promises";
import { pino } from "pino";
import { afterEach } from "vitest";
import type { Event, NewEvent } from "../../src/domain/event.ts";
import type { Route } from "../../src/domain/route.ts";
import type { Service, ServiceSpec } from "../../src/domain/service.ts";
import { blankStatus, type ServiceStatus } from "../../src/domain/status.ts";
import type { RouteFact } from "../../src/proxy/route-book.ts";
import type { EventFollower, FollowedItem, ServiceSnapshots } from "../../src/proxy/route-keeper.ts";
import { eventually } from "../support/eventually.ts";
import { runVariables } from "../support/test-run.ts";

const cleanups: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** Runs after the test, newest first. */
export function atEnd(cleanup: () => unknown): void {
  cleanups.push(cleanup);
}

export const silentLog = pino({ level: process.env["LOG_LEVEL"] ?? "silent" });

export const anySignal: AbortSignal = new AbortController().signal;

/** A real configurable-http-proxy that somebody else runs. */
export class ForeignProxy {
  readonly token = "a-token-that-only-we-know";
  readonly port: number;
  readonly apiPort: number;
  #child: ChildProcess | undefined;

  constructor(port: number, apiPort: number) {
    this.port = port;
    this.apiPort = apiPort;
  }

  static async create(): Promise<ForeignProxy> {
    const proxy = new ForeignProxy(await freePort(), await freePort());
    atEnd(() => proxy.kill());
    return proxy;
  }

  static async start(): Promise<ForeignProxy> {
    const proxy = await ForeignProxy.create();
    await proxy.run();
    return proxy;
  }

  get apiUrl(): string {
    return `http://127.0.0.1:${this.apiPort}`;
  }

  async run(): Promise<void> {
    const program = join(
      createRequire(import.meta.url).resolve("configurable-http-proxy/package.json"),
      "../bin/configurable-http-proxy",
    );
    const args = [
      program,
      "--ip",
      "127.0.0.1",
      "--port",
      String(this.port),
      "--api-ip",
      "127.0.0.1",
      "--api-port",
      String(this.apiPort),
    ];
    const env = { ...runVariables(), CONFIGPROXY_AUTH_TOKEN: this.token };
    this.#child = spawn(process.execPath, [...args, "--log-level", "error"], { env, stdio: "ignore" });
    await eventually(async () => (await send(this.apiPort, "GET", "/api/routes", { token: "wrong" })).status === 403);
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await gone;
  }

  async api(method: string, path: string, body?: unknown): Promise<Reply> {
    return send(this.apiPort, method, `/api/routes${path}`, { token: this.token, body });
  }

  async put(path: string, target: string, more: object = {}): Promise<void> {
    await this.api("POST", path, { target, ...more });
  }

  async table(): Promise<Record<string, TableRoute>> {
    return JSON.parse((await this.api("GET", "")).text);
  }

  /** Without the sentinel. */
  async targets(): Promise<Record<string, string>> {
    const all = Object.entries(await this.table()).filter(([path]) => !path.startsWith("/.steward/"));
    return Object.fromEntries(all.map(([path, { target }]) => [path, target]));
  }

  /** Asks as the public would; the path is sent as it is. */
  async visit(path: string): Promise<Reply> {
    return send(this.port, "GET", path, {});
  }
}

export interface TableRoute {
  readonly target: string;
  readonly last_activity: string;
  readonly steward?: { readonly generation: number };
}

export interface Reply {
  readonly status: number;
  readonly text: string;
}

/** One request without any normalisation of its path. */
export function send(
  port: number,
  method: string,
  path: string,
  { token, body }: { token?: string | undefined; body?: unknown },
): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const headers = token === undefined ? {} : { authorization: `token ${token}` };
    const call = request({ host: "127.0.0.1", port, method, path, headers, agent: false }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      response.once("error", reject);
      response.once("end", () => resolve({ status: response.statusCode ?? 0, text }));
    });
    call.once("error", reject);
    call.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

/** A target that answers with its name and the path that it was asked for. */
export async function startTarget(name: string): Promise<string> {
  const server = createServer((incoming, response) => response.end(`${name} ${incoming.url}`));
  return listen(server);
}

export async function listen(server: Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  atEnd(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** An API that accepts every connection and never answers. */
export async function startSilent(port = 0): Promise<{ url: string; connections: () => number; end: () => void }> {
  const sockets: Socket[] = [];
  const server = createTcpServer((socket) => {
    sockets.push(socket.on("error", () => {}));
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  const end = (): void => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
  atEnd(end);
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return { url, connections: () => sockets.length, end };
}

export interface ApiCall {
  readonly method: string;
  readonly path: string;
  readonly atMs: number;
}

/**
 * The API of a proxy with somebody in front of it who counts the calls and may spoil them: answer with a status instead of asking the proxy, or
 * ask it and lose the answer.
 */
export async function startFront(
  proxy: ForeignProxy,
  spoil: (method: string) => number | "lose" | undefined = () => undefined,
): Promise<{ url: string; calls: ApiCall[] }> {
  const calls: ApiCall[] = [];
  const answer = async (incoming: IncomingMessage): Promise<Reply> => {
    const { method = "", url = "" } = incoming;
    const path = url.replace("/api/routes", "");
    calls.push({ method, path, atMs: performance.now() });
    const body = await readText(incoming);
    const spoiled = spoil(method);
    if (typeof spoiled === "number") return { status: spoiled, text: "" };
    const reply = await proxy.api(method, path, body === "" ? undefined : JSON.parse(body));
    if (spoiled === "lose") throw new Error("lost");
    return reply;
  };
  const server = createServer((incoming, response) => {
    answer(incoming).then(
      (reply) => response.writeHead(reply.status).end(reply.text),
      () => response.destroy(),
    );
  });
  return { url: await listen(server), calls };
}

export async function freePort(): Promise<number> {
  const server = createTcpServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** The store, the feed and the recorder as the route keeper knows them, in memory. Every write takes `commitMs`. */
export class LittleStore implements ServiceSnapshots, EventFollower {
  readonly storeUid = randomUUID();
  readonly events: Event[] = [];
  readonly services = new Map<string, Service>();
  commitMs = 0;
  #revision = 0n;
  #appended = Promise.withResolvers<void>();

  async snapshot(): Promise<{ services: Service[]; revision: bigint }> {
    return { services: [...this.services.values()], revision: this.#revision };
  }

  async record(fact: RouteFact): Promise<bigint> {
    if (this.commitMs > 0) await delay(this.commitMs);
    const service = fact.serviceUid === undefined ? undefined : this.services.get(fact.serviceUid);
    if (fact.serviceUid !== undefined && service === undefined) return this.#revision;
    if (service !== undefined && fact.route !== undefined) {
      this.services.set(service.uid, { ...service, route: "removed" in fact.route ? undefined : fact.route });
    }
    this.#append(fact.events, service?.uid);
    if (service?.wish === "deleted") this.#finishDeletion(service.uid);
    return this.#revision;
  }

  async *follow({ after, signal }: { after: { revision: bigint }; signal: AbortSignal }): AsyncGenerator<FollowedItem> {
    const stopped = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
    for (let seen = after.revision; !signal.aborted; ) {
      const { promise } = this.#appended;
      const events = this.events.filter((event) => event.revision > seen);
      seen = this.#revision;
      if (events.length > 0) yield { kind: "events", events, cursor: { storeUid: this.storeUid, revision: seen } };
      else await Promise.race([promise, stopped]);
    }
  }

  /** Registers an external service, or gives it another url. */
  setExternal(name: string, url: string | undefined): Service {
    const existing = this.named(name);
    const spec: ServiceSpec = { ...plainSpec, url };
    const service = existing === undefined ? newService(name, spec) : { ...existing, spec };
    return this.set(service);
  }

  set(service: Service): Service {
    this.services.set(service.uid, service);
    this.#append([{ body: { type: "service_updated", paths: [], restarts: false }, message: "" }], service.uid);
    return service;
  }

  delete(name: string): void {
    const service = this.named(name);
    if (service === undefined) throw new Error(`no ${name}`);
    this.set({ ...service, wish: "deleted" });
    this.#finishDeletion(service.uid);
  }

  named(name: string): Service | undefined {
    return [...this.services.values()].find((service) => service.name === name);
  }

  route(name: string): Route | undefined {
    return this.named(name)?.route;
  }

  /** The events after the given number of them, as `type` or `type name`. */
  told(after = 0): string[] {
    return this.events
      .slice(after)
      .filter(({ body }) => body.type !== "service_updated")
      .map(({ body, service }) => (service === undefined ? body.type : `${body.type} ${service.name}`));
  }

  #finishDeletion(uid: string): void {
    const service = this.services.get(uid);
    if (service?.wish !== "deleted" || service.route !== undefined) return;
    this.#append([{ body: { type: "service_deleted" }, message: "" }], uid);
    this.services.delete(uid);
  }

  #append(events: readonly Pick<NewEvent, "body" | "message">[], uid: string | undefined): void {
    if (events.length === 0) return;
    this.#revision += 1n;
    const after = uid === undefined ? undefined : this.services.get(uid);
    for (const [index, { body, message }] of events.entries()) {
      this.events.push({
        body,
        message,
        index,
        after,
        service: after === undefined ? undefined : { name: after.name, uid: after.uid, generation: after.generation },
        actor: "steward",
        requestId: undefined,
        revision: this.#revision,
        time: new Date(),
        node: "here",
      });
    }
    this.#appended.resolve();
    this.#appended = Promise.withResolvers();
  }
}

const plainSpec: ServiceSpec = {
  kind: { type: "external", probe: undefined },
  admin: false,
  url: undefined,
  apiTokenSet: false,
  oauthClientId: "",
  oauthNoConfirm: false,
  info: {},
  display: true,
  labels: {},
};

const plainStatus: ServiceStatus = { ...blankStatus, state: "external", published: true, transitionTime: new Date(0) };

export function newService(name: string, spec: ServiceSpec, status: Partial<ServiceStatus> = {}): Service {
  return {
    name,
    uid: randomUUID(),
    spec,
    wish: "running",
    generation: 1,
    resets: 0,
    version: 1,
    status: { ...plainStatus, ...status },
    route: undefined,
    revision: 0n,
    createTime: new Date(0),
    updateTime: new Date(0),
    setName: "",
  };
}

export function externalService(name: string, url: string | undefined): Service {
  return newService(name, { ...plainSpec, oauthClientId: `service-${name}`, url });
}
