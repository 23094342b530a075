import { randomBytes } from "node:crypto";
import { join } from "node:path";
import type pg from "pg";
import { pino } from "pino";
import { type Clock, systemClock } from "../../src/domain/clock.ts";
import type { Event } from "../../src/domain/event.ts";
import type { RestartPolicy, Service } from "../../src/domain/service.ts";
import type { ManagedSpecInput, ServiceSpecInput } from "../../src/domain/service-spec.ts";
import type { ServiceState } from "../../src/domain/status.ts";
import { TokenKeys } from "../../src/domain/token-secret.ts";
import { Feed } from "../../src/events/feed.ts";
import type { Call } from "../../src/registry/call.ts";
import { Services } from "../../src/registry/services.ts";
import { Tokens } from "../../src/registry/tokens.ts";
import { Store } from "../../src/store/store.ts";
import { Accounts } from "../../src/supervisor/account.ts";
import type { ControlGroups } from "../../src/supervisor/control-groups.ts";
import type { FailPoint } from "../../src/supervisor/fail-point.ts";
import { Host } from "../../src/supervisor/host.ts";
import { HostChecks } from "../../src/supervisor/host-checks.ts";
import { Launcher } from "../../src/supervisor/launcher.ts";
import { Leftovers } from "../../src/supervisor/leftovers.ts";
import { LimitRules } from "../../src/supervisor/limit-rules.ts";
import { OutputKeeper } from "../../src/supervisor/output-keeper.ts";
import { ProcessTable } from "../../src/supervisor/process-table.ts";
import { RestartBudget } from "../../src/supervisor/restart-budget.ts";
import { Shims } from "../../src/supervisor/shims.ts";
import { Supervisor } from "../../src/supervisor/supervisor.ts";
import { eventually } from "../support/eventually.ts";

export interface PlaneOptions {
  readonly connection: pg.PoolConfig;
  readonly stateDir: string;
  readonly clock?: Clock;
  readonly drainMs?: number;
  /** How fast processes are started; default: as a server does. */
  readonly startBudget?: { readonly perSecond: number; readonly burst: number };
  /** How many events are kept in memory; default: as a server does. */
  readonly ringSize?: number;
  readonly reach?: (point: FailPoint) => void;
  /** Told of what failed and is tried again. */
  readonly onFailure?: (error: unknown) => void;
  /** Undefined: as where no control group is writable. */
  readonly groups?: ControlGroups | undefined;
  readonly unenforcedLimits?: "refuse" | "report";
}

/** What a test says of a managed service; the rest is short, so that tests are. */
export interface Wanted extends Partial<Omit<ManagedSpecInput, "type" | "restartPolicy">> {
  readonly restart?: Partial<RestartPolicy>;
  readonly url?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** A control plane without its doors: the real store, feed, registry and supervisor. */
export class Plane {
  readonly store: Store;
  readonly services: Services;
  /** What was reported as failed and tried again. */
  readonly failures: unknown[] = [];
  readonly #options: PlaneOptions;
  readonly #tokens: Tokens;
  readonly #accounts = new Accounts({ ownUid: process.getuid?.() ?? -1, allowRoot: true });
  readonly #limitRules: LimitRules;
  #feed: Feed | undefined;
  #supervisor: Supervisor | undefined;
  #outputKeeper: OutputKeeper | undefined;
  #shims: Shims | undefined;

  constructor(options: PlaneOptions) {
    this.#options = options;
    const { connection, clock = systemClock, groups, unenforcedLimits = "refuse" } = options;
    this.#limitRules = new LimitRules({ groups, unenforced: unenforcedLimits });
    this.store = new Store({ connection: { ...connection }, node: "test", log: pino({ level: "silent" }) });
    const keys = new TokenKeys(randomBytes(32));
    const { store } = this;
    this.#tokens = new Tokens({
      store,
      reader: store.tokens,
      services: store.services,
      keys,
      clock,
      onTokensChanged: () => Promise.resolve(),
    });
    this.services = new Services({
      store,
      reader: store.services,
      known: store.services,
      revisions: store.specRevisions,
      processes: { signal: (service, o) => this.supervisor.signal(service, o) },
      keys,
      hostChecks: new HostChecks({ accounts: this.#accounts, limitRules: this.#limitRules, path }),
      forbidden: [],
      clock,
      onRightsChanged: () => Promise.resolve(),
    });
  }

  get supervisor(): Supervisor {
    if (this.#supervisor === undefined) throw new Error("it does not supervise");
    return this.#supervisor;
  }

  async start(): Promise<this> {
    await this.store.start();
    await this.supervise();
    return this;
  }

  /** Starts a supervisor on what the last one left. */
  async supervise(): Promise<void> {
    const {
      stateDir,
      clock = systemClock,
      drainMs = 0,
      startBudget,
      ringSize,
      reach = () => undefined,
    } = this.#options;
    const { store } = this;
    const onFailure = (error: unknown) => {
      this.failures.push(error);
      this.#options.onFailure?.(error);
    };
    const feed = new Feed(
      {
        readAfter: (revision, limit) => store.events.readAfter(revision, limit),
        bounds: () => store.events.bounds(),
        onAppended: (listener) => store.wakeups.onAppended(listener),
      },
      { storeUid: store.storeUid, onFailure, ...(ringSize === undefined ? {} : { ringSize }) },
    );
    const leftovers = new Leftovers(new ProcessTable());
    const outputKeeper = new OutputKeeper({ onBeginAnew: () => undefined, onFailure });
    const shims = new Shims({ place: stateDir });
    const stewardAddress = "http://127.0.0.1:7700";
    const supervisor = new Supervisor({
      node: "test",
      clock,
      random: () => 0,
      facts: store.facts,
      tokens: this.#tokens,
      host: new Host({
        stateDir,
        portRange: { first: 20_000, last: 29_999 },
        inheritedEnvironment: { PATH: path },
        accounts: this.#accounts,
        limitRules: this.#limitRules,
        outputKeeper,
        platform: {
          apiUrl: `${stewardAddress}/hub/api`,
          baseUrl: "/",
          publicHost: "",
          publicHubUrl: "",
          stewardAddress,
        },
        publicOrigin: "",
      }),
      launcher: new Launcher({ leftovers, groups: this.#options.groups, cwd: "/", shims }),
      groups: this.#options.groups,
      leftovers,
      budget: new RestartBudget(clock, startBudget),
      drainMs,
      routes: false,
      reach,
      onFailure,
      stateDir,
      feed,
      storeUid: store.storeUid,
      services: store.services,
      instances: store.instances,
    });
    [this.#feed, this.#outputKeeper, this.#supervisor, this.#shims] = [feed, outputKeeper, supervisor, shims];
    shims.start();
    await feed.start();
    await supervisor.start();
  }

  /** As `steward serve` stops: services run on. */
  async letGo(): Promise<void> {
    await this.#supervisor?.stop();
    await this.#shims?.stop();
    await this.#outputKeeper?.stop();
    await this.#feed?.stop();
  }

  async stop(): Promise<void> {
    await this.letGo();
    await this.store.stop();
  }

  create(name: string, command: readonly string[], wanted: Wanted = {}): Promise<Service> {
    return this.register(name, specOf(command, wanted));
  }

  async register(name: string, spec: ServiceSpecInput): Promise<Service> {
    return (await this.services.create(call("Create"), { name, spec })).service;
  }

  async update(name: string, command: readonly string[], wanted: Wanted = {}): Promise<void> {
    await this.change(name, specOf(command, wanted));
  }

  async change(name: string, spec: ServiceSpecInput, paths: readonly string[] = ["*"]): Promise<void> {
    await this.services.update(call("Update"), { name, etag: "", spec, paths, allowMissing: false });
  }

  async wish(verb: "start" | "stop" | "restart", name: string): Promise<void> {
    await this.services[verb](call(verb), { name, etag: "" });
  }

  async remove(name: string, { force = true } = {}): Promise<void> {
    await this.services.delete(call("Delete"), { name, etag: "", force, allowMissing: false });
  }

  async stopAllServices(): Promise<void> {
    await this.services.stopAll(call("StopAll"), { filter: "" });
  }

  async service(name: string): Promise<Service> {
    return (await this.services.get(name)).service;
  }

  /** Resolves with the service once it is so. */
  async until(
    name: string,
    isSo: ServiceState | ((service: Service) => boolean),
    timeoutMs = 20_000,
  ): Promise<Service> {
    const holds = typeof isSo === "function" ? isSo : (service: Service) => service.status.state === isSo;
    return eventually(
      async () => {
        const service = await this.service(name);
        if (!holds(service)) throw new Error(JSON.stringify(service.status));
        return service;
      },
      { timeoutMs },
    );
  }

  /** Everything that happened to a service, oldest first. */
  async history(name: string): Promise<Event[]> {
    const events = await this.store.events.readAfter(0n, 100_000);
    return events.filter(({ service }) => service?.name === name);
  }

  async typesOf(name: string): Promise<string[]> {
    return (await this.history(name)).map(({ body }) => body.type);
  }

  /** Resolves once so many events of the type have happened to the service. */
  async happened(name: string, type: Event["body"]["type"], times = 1, timeoutMs = 20_000): Promise<Event[]> {
    return eventually(
      async () => {
        const events = (await this.history(name)).filter(({ body }) => body.type === type);
        return events.length >= times ? events : undefined;
      },
      { timeoutMs },
    );
  }

  async output(name: string, stream: "stdout" | "stderr" = "stdout"): Promise<string> {
    const service = await this.service(name);
    const { signal } = new AbortController();
    let text = "";
    const logs = this.supervisor.logs({ service, streams: [stream], tailLines: undefined, follow: false, signal });
    for await (const { data } of logs) text += data.toString();
    return text;
  }

  runDirectory(instanceId: string): string {
    return join(this.#options.stateDir, "run", instanceId);
  }
}

function specOf(command: readonly string[], { url, labels, restart, ...wanted }: Wanted): ServiceSpecInput {
  const restartPolicy = { baseDelayMs: 100, maxDelayMs: 1_000, ...restart };
  return {
    url,
    labels,
    kind: { type: "managed", command, minReadyMs: 50, stopGraceMs: 5_000, restartPolicy, ...wanted },
  };
}

function call(method: string): Call {
  return {
    principal: {
      kind: "operator",
      name: "operator",
      serviceUid: undefined,
      tokenId: "t",
      tokenExpireTime: undefined,
      scopes: ["*"],
    },
    requestId: undefined,
    requestHash: "",
    method,
    validateOnly: false,
    callId: method,
    peer: "192.0.2.1:5000",
  };
}
