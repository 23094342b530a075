import { randomBytes } from "node:crypto";
import { chmod, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { isIP } from "node:net";
import { dirname, join } from "node:path";
import type pg from "pg";
import type { Logger } from "pino";
import { ServiceRegistry as ServiceRegistryDesc } from "../gen/steward/v1/service_registry_pb.ts";
import { Supervisor as SupervisorDesc } from "../gen/steward/v1/supervisor_pb.ts";
import type { Address, Config } from "./config.ts";
import { systemClock } from "./domain/clock.ts";
import { TokenKeys } from "./domain/token-secret.ts";
import { Feed } from "./events/feed.ts";
import { BundledProxy } from "./proxy/bundled-proxy.ts";
import { ConfigurableHttpProxy } from "./proxy/configurable-http-proxy.ts";
import { RouteKeeper } from "./proxy/route-keeper.ts";
import { prometheusRouteMetrics, registerRouteStates } from "./proxy/route-metrics.ts";
import { Authenticator } from "./registry/authenticator.ts";
import { CertificateHolders } from "./registry/certificate-holders.ts";
import { KnownServices } from "./registry/known-services.ts";
import { Services } from "./registry/services.ts";
import { Tokens } from "./registry/tokens.ts";
import { Certificates } from "./rpc/certificates.ts";
import { EventLog } from "./rpc/event-log.ts";
import { Explaining } from "./rpc/explain.ts";
import { serve } from "./rpc/handler.ts";
import { Metrics } from "./rpc/metrics.ts";
import { RpcServer } from "./rpc/rpc-server.ts";
import { SeenRevision } from "./rpc/seen-revision.ts";
import { serviceRegistry } from "./rpc/service-registry.ts";
import { supervisor as supervisorHandlers } from "./rpc/supervisor.ts";
import { Waiting } from "./rpc/wait.ts";
import { EventWatch } from "./rpc/watch-events.ts";
import { ServiceWatch } from "./rpc/watch-services.ts";
import { lockFile } from "./store/embedded-lock.ts";
import { EmbeddedPostgres } from "./store/embedded-postgres.ts";
import { Store } from "./store/store.ts";
import { Accounts } from "./supervisor/account.ts";
import { openControlGroups } from "./supervisor/control-groups.ts";
import { closeInheritedDescriptors } from "./supervisor/descriptors.ts";
import { DiskWatch } from "./supervisor/disk-watch.ts";
import { Host } from "./supervisor/host.ts";
import { HostChecks } from "./supervisor/host-checks.ts";
import { Launcher } from "./supervisor/launcher.ts";
import { Leftovers } from "./supervisor/leftovers.ts";
import { LimitRules } from "./supervisor/limit-rules.ts";
import { registerSupervisorMetrics } from "./supervisor/metrics.ts";
import { OutputKeeper } from "./supervisor/output-keeper.ts";
import { ProcessTable } from "./supervisor/process-table.ts";
import { RestartBudget } from "./supervisor/restart-budget.ts";
import { Shims } from "./supervisor/shims.ts";
import { Supervisor } from "./supervisor/supervisor.ts";

/** A control plane that runs. */
export interface Steward {
  /** Reads the certificates again; connections that are open keep theirs. Without TLS there is nothing to do. */
  reloadCertificates(): Promise<void>;
  readonly addresses: Addresses;
  /** The file with the local operator's token. */
  readonly adminTokenFile: string;
  /** Stops serving and lets go of the services, which run on; with `stopServices` they are stopped first. Twice is fine. */
  stop(o?: { stopServices?: boolean }): Promise<void>;
}

export interface Addresses {
  readonly connect: string;
  readonly grpc: string | undefined;
  /** The Unix socket for clients on this host (`unix:PATH`); undefined where the path of the state directory is too long for one. */
  readonly local: string | undefined;
  /** Where the public reaches the services; undefined without a proxy. */
  readonly proxy: string | undefined;
}

/** Builds the rooms, introduces them to each other and starts them in order; if one cannot start, the ones before it are stopped again. */
export async function startSteward(config: Config, log: Logger, version: string): Promise<Steward> {
  const started = new Stack();
  try {
    return await start(config, log, version, started);
  } catch (error) {
    await started.stop();
    throw error;
  }
}

async function start(config: Config, log: Logger, version: string, started: Stack): Promise<Steward> {
  const clock = systemClock;
  const onFailure = (error: unknown) => log.warn({ err: error }, "something failed and is tried again");
  closeInheritedDescriptors();
  await mkdir(config.stateDir, { recursive: true, mode: 0o700 });
  await chmod(config.stateDir, 0o700);
  const lock = await lockFile(join(config.stateDir, "lock"));
  started.push(() => lock.release());
  const groups = config.cgroups === "auto" ? await openControlGroups(config.stateDir) : undefined;
  started.push(async () => groups?.close());
  const limitRules = new LimitRules({ groups, unenforced: config.unenforcedLimits });
  log.info({ cgroups: groups === undefined ? "none" : groups.controllers }, "how services are held and limited");
  const keys = new TokenKeys(await readPepper(config.pepperFile));
  const metrics = new Metrics({ processMetrics: true });
  const { registry } = metrics;

  const store = new Store({
    connection: await connectionOf(config, log, started),
    node: config.node,
    log,
    slowStatementMs: config.slowStatementMs,
    registry,
  });
  await started.add(store);
  const { storeUid } = store;
  const source = {
    readAfter: (revision: bigint, limit: number) => store.events.readAfter(revision, limit),
    bounds: () => store.events.bounds(),
    onAppended: (listener: () => void) => store.wakeups.onAppended(listener),
  };
  const feed = await started.add(new Feed(source, { storeUid, onFailure, registry }));
  const authenticator = await started.add(
    new Authenticator({
      source: store.tokens,
      certificates: new CertificateHolders(config.tlsPrincipals, store.services),
      feed,
      keys,
      clock,
      onFailure,
    }),
  );
  const known = await started.add(new KnownServices({ source: store.services, feed, clock, onFailure }));

  // Streams that are open when rights change are looked at again at once.
  let recheckStreams = (): void => undefined;

  const certificates = config.tls === undefined ? undefined : new Certificates({ files: config.tls, log });
  if (certificates !== undefined) await started.add(certificates);
  else warnOfCleartext(config, log);
  const proxy = await openProxy(config, log, started);
  const accounts = new Accounts({ ownUid: process.getuid?.() ?? -1, allowRoot: config.allowRoot });
  const tokens = new Tokens({
    store,
    reader: store.tokens,
    services: store.services,
    keys,
    clock,
    onTokensChanged: (ids) => authenticator.refreshTokens(ids).then(() => recheckStreams()),
  });
  const forbidden: Address[] = [];
  const services = new Services({
    store,
    reader: store.services,
    known,
    revisions: store.specRevisions,
    processes: { signal: (service, o) => supervisor.signal(service, o) },
    keys,
    hostChecks: new HostChecks({ accounts, limitRules, path: config.inheritedEnvironment["PATH"] }),
    forbidden,
    clock,
    onRightsChanged: (uid) => authenticator.refreshService(uid).then(() => recheckStreams()),
  });

  const keeper =
    proxy === undefined
      ? undefined
      : new RouteKeeper({
          driver: new ConfigurableHttpProxy({
            url: proxy.apiUrl,
            token: proxy.token,
            clock,
            owner: storeUid.slice(0, 13),
            epoch: 1,
          }),
          proxy: "default",
          storeUid,
          services: store.services,
          feed,
          facts: store.facts,
          clock,
          log,
          epoch: 1,
          metrics: prometheusRouteMetrics(registry, "default"),
          ...(proxy.isGone === undefined ? {} : { isProxyGone: proxy.isGone }),
        });
  if (keeper !== undefined) registerRouteStates(registry, "default", { counts: () => keeper.counts() });

  const leftovers = new Leftovers(new ProcessTable());
  const outputKeeper = new OutputKeeper({
    keepBytes: config.logKeepBytes,
    onBeginAnew: (path, reason) =>
      log.warn(
        { path, reason },
        "this file system cannot give back the beginning of a file; output begins anew instead",
      ),
    onFailure: (path, error) =>
      log.warn({ path, err: error }, "the output of a service could not be bounded; trying again"),
  });
  const door = await openDoor();
  recheckStreams = () => door.server.recheckStreams();
  const scheme = certificates === undefined ? "http" : "https";
  const stewardAddress = urlOf(scheme, door.connect);
  const host = new Host({
    stateDir: config.stateDir,
    portRange: config.portRange,
    inheritedEnvironment: config.inheritedEnvironment,
    accounts,
    limitRules,
    outputKeeper,
    platform: {
      apiUrl: `${stewardAddress}/hub/api`,
      baseUrl: "/",
      publicHost: "",
      publicHubUrl: config.publicUrl === "" ? "" : `${config.publicUrl}/hub/`,
      stewardAddress,
    },
    publicOrigin: config.publicUrl,
  });
  const shims = new Shims({ place: config.stateDir });
  shims.start();
  started.push(() => shims.stop());
  const supervisor = new Supervisor({
    node: config.node,
    clock,
    random: Math.random,
    facts: store.facts,
    tokens,
    host,
    launcher: new Launcher({ leftovers, groups, cwd: process.cwd(), shims }),
    groups,
    leftovers,
    budget: new RestartBudget(clock, config.startBudget),
    drainMs: config.drainMs,
    routes: keeper !== undefined,
    reach: (point) => {
      if (point === config.failPoint) process.kill(process.pid, "SIGKILL");
    },
    onFailure: (error, service) => log.warn({ err: error, service }, "the supervisor of a service failed"),
    stateDir: config.stateDir,
    feed,
    storeUid,
    services: store.services,
    instances: store.instances,
  });
  registerSupervisorMetrics(registry, supervisor);
  started.push(() => outputKeeper.stop());
  await started.add(supervisor);
  await started.add(
    new DiskWatch({
      directory: config.stateDir,
      reserveBytes: config.diskReserveBytes,
      clock,
      facts: store.facts,
      tell: (risk) => supervisor.tellOutputRisk(risk),
      onFailure,
    }),
  );
  if (keeper !== undefined) await started.add(keeper);
  door.server.open();

  const adminTokenFile = await ensureAdminToken(config, tokens, authenticator);
  const addresses: Addresses = {
    connect: stewardAddress,
    grpc: door.grpc === undefined ? undefined : urlOf(scheme, door.grpc),
    local: door.local === undefined ? undefined : `unix:${door.local}`,
    proxy: config.publicUrl === "" ? proxy?.publicUrl : config.publicUrl,
  };
  await writeServerFile(config, addresses);
  started.push(() => rm(join(config.stateDir, "server.json"), { force: true }));
  await noteServer(store, "server_started", `version ${version} started on ${config.node}`);
  started.push(() => noteServer(store, "server_stopped", `stopped on ${config.node}`).catch(onFailure));
  return {
    addresses,
    adminTokenFile,
    reloadCertificates: async () => certificates?.reload(),
    async stop({ stopServices = config.stopServices } = {}) {
      if (stopServices) await supervisor.stopAll();
      await started.stop();
    },
  };

  /** The ports are opened early, because services must be told where they are; calls are answered once everything runs. */
  async function openDoor(): Promise<Door> {
    const local = localSocket(config, log);
    const seen = new SeenRevision({ feed, clock });
    const waiting = new Waiting({ feed, registry: services, clock, rules: { routed: keeper !== undefined } });
    const server = new RpcServer({
      services: [
        serve(
          ServiceRegistryDesc,
          serviceRegistry({
            services,
            tokens,
            watch: new ServiceWatch({ feed, registry: services, clock }),
            seen,
            identity: { version, storeUid, node: config.node },
            clock,
          }),
          { watches: ["watchServices"] },
        ),
        serve(
          SupervisorDesc,
          supervisorHandlers({
            services,
            instances: store.instances,
            routes: store.routes,
            output: { logs: (request) => supervisor.logs(request) },
            explaining: new Explaining({
              registry: services,
              observed: {
                get queuedStarts() {
                  return supervisor.queuedStarts;
                },
                probeResults: (service) => supervisor.probeResults(service),
                lastLines: (service, count) => supervisor.lastLines(service, count),
              },
              isRouted: keeper !== undefined,
            }),
            repair: {
              reconcile: async (o) => (await keeper?.reconcile(o)) ?? noRoutes,
              foresee: async (o) => (await keeper?.foresee(o)) ?? noRoutes,
            },
            events: new EventLog(store.events, storeUid),
            watch: new EventWatch({ feed, clock }),
            waiting,
            seen,
            head: () => feed.head,
          }),
          { waiting: ["wait"], watches: ["watchEvents"] },
        ),
      ],
      authenticate: (secret) => authenticator.authenticate(secret),
      ...(config.tlsPrincipals.length === 0
        ? {}
        : { authenticateCertificate: (shown) => authenticator.authenticateCertificate(shown) }),
      connect: config.listen,
      ...(config.grpcListen === undefined ? {} : { grpc: config.grpcListen }),
      ...(local === undefined ? {} : { local: { path: local } }),
      ...(certificates === undefined ? {} : { tls: certificates.current }),
      corsOrigins: config.corsOrigins,
      limits: config.connections,
      drain: { noticeMs: config.drainNoticeMs },
      endWaits: () => waiting.stop(),
      reflection: "token",
      metrics,
      slowCallMs: config.slowCallMs,
      log,
    });
    certificates?.whenChanged((material) => server.reloadTls(material));
    await started.add(server);
    const { connectAddress: connect, grpcAddress: grpc } = server;
    if (connect === undefined) throw new Error("the Connect port was not opened");
    forbidden.push(connect);
    if (grpc !== undefined) forbidden.push(grpc);
    if (proxy?.publicUrl !== undefined) forbidden.push(addressIn(proxy.publicUrl));
    if (proxy?.apiUrl.startsWith("http") === true) forbidden.push(addressIn(proxy.apiUrl));
    return { server, connect, grpc, local };
  }
}

const noRoutes = { wanted: 0, put: 0, removed: 0, failed: 0 };

/** The ports of the server, and the socket, as far as they are open. */
interface Door {
  readonly server: RpcServer;
  readonly connect: Address;
  readonly grpc: Address | undefined;
  readonly local: string | undefined;
}

interface Startable {
  start(): Promise<void>;
  stop(): Promise<void>;
}

/** What was started, to be stopped in reverse. */
class Stack {
  #stops: (() => Promise<unknown>)[] = [];

  async add<T extends Startable>(part: T): Promise<T> {
    this.#stops.push(() => part.stop());
    await part.start();
    return part;
  }

  push(stop: () => Promise<unknown>): void {
    this.#stops.push(stop);
  }

  async stop(): Promise<void> {
    for (let stop = this.#stops.pop(); stop !== undefined; stop = this.#stops.pop()) await stop();
  }
}

async function connectionOf(config: Config, log: Logger, started: Stack): Promise<pg.PoolConfig> {
  if (config.databaseUrl !== undefined) return { connectionString: config.databaseUrl };
  const postgres = new EmbeddedPostgres({
    dataDir: join(config.stateDir, "postgres"),
    log: (line) => log.debug({ part: "postgres" }, line),
    user: config.databaseUser,
  });
  await started.add(postgres);
  return { ...postgres.connection };
}

interface OpenProxy {
  readonly apiUrl: string;
  readonly token: string;
  readonly publicUrl: string | undefined;
  readonly isGone?: () => boolean;
}

async function openProxy(config: Config, log: Logger, started: Stack): Promise<OpenProxy | undefined> {
  const { proxy } = config;
  switch (proxy.kind) {
    case "none":
      return undefined;
    case "external":
      return proxy;
    case "bundled": {
      const { host: publicHost, port: publicPort } = proxy.listen;
      const bundled = new BundledProxy({ stateDir: config.stateDir, clock: systemClock, log, publicHost, publicPort });
      await started.add(bundled);
      const { apiUrl, token, publicUrl } = bundled;
      return { apiUrl, token, publicUrl, isGone: () => bundled.isGone };
    }
  }
}

/** The secret that tokens are hashed with: read, or made at the first start. */
async function readPepper(path: string): Promise<Buffer> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const made = `${randomBytes(32).toString("base64")}\n`;
  await writeFile(path, made, { mode: 0o600, flag: "wx" }).catch(unlessExists);
  return Buffer.from((await readFile(path, "utf8")).trim(), "base64");
}

/** The local operator's token: kept as long as it works, else made anew. */
async function ensureAdminToken(config: Config, tokens: Tokens, authenticator: Authenticator): Promise<string> {
  const path = join(config.stateDir, "admin-token");
  const known = await readFile(path, "utf8").catch(() => "");
  if (known !== "" && works(authenticator, known.trim())) return path;
  await writeWhole(path, `${await tokens.bootstrap()}\n`);
  return path;
}

function works(authenticator: Authenticator, secret: string): boolean {
  try {
    authenticator.authenticate(secret);
    return true;
  } catch {
    return false;
  }
}

/** Where local clients find the server. */
async function writeServerFile(config: Config, addresses: Addresses): Promise<void> {
  const content = { pid: process.pid, node: config.node, addresses };
  await writeWhole(join(config.stateDir, "server.json"), `${JSON.stringify(content, undefined, 2)}\n`);
}

/** A reader sees the old file or the new one, never half of one. */
async function writeWhole(path: string, text: string): Promise<void> {
  await writeFile(`${path}.new`, text, { mode: 0o600 });
  await rename(`${path}.new`, path);
}

async function noteServer(store: Store, type: "server_started" | "server_stopped", message: string): Promise<void> {
  await store.write(async (tx) =>
    tx.append({ body: { type }, service: undefined, actor: "steward", requestId: undefined, message }),
  );
}

function unlessExists(error: NodeJS.ErrnoException): void {
  if (error.code !== "EEXIST") throw error;
}

/** A client's path to a socket has at most 107 bytes (sockaddr_un). */
function localSocket({ stateDir }: Config, log: Logger): string | undefined {
  const path = join(stateDir, "steward.sock");
  if (Buffer.byteLength(path) <= 107) return path;
  log.warn({ path }, "the path is too long for a socket: local clients use the port");
  return undefined;
}

function warnOfCleartext({ listen, grpcListen }: Config, log: Logger): void {
  for (const address of [listen, grpcListen])
    if (address !== undefined && !isLoopback(address))
      log.warn(
        address,
        "tokens travel in the clear to this address; use --tls-cert and --tls-key, or a loopback address",
      );
}

function isLoopback({ host }: Address): boolean {
  return host === "localhost" || host === "::1" || /^127(\.\d+){3}$/.test(host);
}

function urlOf(scheme: "http" | "https", address: Address): string {
  return `${scheme}://${hostOf(reachable(address))}:${address.port}`;
}

/** Where a client on this host reaches a listener: one on all interfaces is also on loopback. */
function reachable({ host }: { host: string }): string {
  if (host === "0.0.0.0") return "127.0.0.1";
  return host === "::" ? "::1" : host;
}

function hostOf(host: string): string {
  return isIP(host) === 6 ? `[${host}]` : host;
}

function addressIn(url: string): Address {
  const { hostname, port, protocol } = new URL(url);
  return { host: hostname.replaceAll(/^\[|\]$/g, ""), port: Number(port || (protocol === "https:" ? 443 : 80)) };
}
