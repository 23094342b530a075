import { randomUUID } from "node:crypto";
import pg from "pg";
import { pino } from "pino";
import { onTestFinished } from "vitest";
import { type Clock, systemClock } from "../../src/domain/clock.ts";
import type { Event } from "../../src/domain/event.ts";
import type { Principal } from "../../src/domain/principal.ts";
import type { ServiceSpecInput } from "../../src/domain/service-spec.ts";
import { TokenKeys } from "../../src/domain/token-secret.ts";
import { Feed } from "../../src/events/feed.ts";
import { Authenticator, type TokenSource } from "../../src/registry/authenticator.ts";
import type { Call } from "../../src/registry/call.ts";
import { type CertificateGrant, CertificateHolders } from "../../src/registry/certificate-holders.ts";
import { KnownServices } from "../../src/registry/known-services.ts";
import { Services } from "../../src/registry/services.ts";
import { Tokens } from "../../src/registry/tokens.ts";
import { Store } from "../../src/store/store.ts";
import { Accounts } from "../../src/supervisor/account.ts";
import { HostChecks } from "../../src/supervisor/host-checks.ts";
import { LimitRules } from "../../src/supervisor/limit-rules.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";

export const silentLog = pino({ level: "silent" });

export const operator: Principal = {
  kind: "operator",
  name: "operator",
  serviceUid: undefined,
  tokenId: "00000000-0000-0000-0000-000000000000",
  tokenExpireTime: undefined,
  scopes: ["*"],
};

/** The real time, that can be moved on. */
export class MovableClock implements Clock {
  #aheadMs = 0;
  readonly monotonicMs = systemClock.monotonicMs;
  readonly after = systemClock.after;

  now(): Date {
    return new Date(Date.now() + this.#aheadMs);
  }

  move(ms: number): void {
    this.#aheadMs += ms;
  }
}

/** One call of a client; each test names only what matters to it. */
export function call(given: Partial<Call> = {}): Call {
  return {
    principal: operator,
    requestId: undefined,
    requestHash: "hash",
    method: "/steward.v1.ServiceRegistry/Test",
    validateOnly: false,
    callId: randomUUID(),
    peer: "192.0.2.1:5000",
    ...given,
  };
}

export function caller(...scopes: readonly string[]): Call {
  return call({ principal: { ...operator, name: "limited", scopes } });
}

export function managed(
  given: Partial<ServiceSpecInput> & { environment?: Record<string, string> } = {},
): ServiceSpecInput {
  const { environment, ...spec } = given;
  return { kind: { type: "managed", command: ["sleep", "1000"], environment }, ...spec };
}

export function external(given: Partial<ServiceSpecInput> = {}): ServiceSpecInput {
  return { kind: { type: "external" }, url: "http://10.0.0.1:80", ...given };
}

/** The registry on a real store, as main.ts builds it. A second one on the same database is another server. */
export class Registry {
  readonly database: TestDatabase;
  readonly clock = new MovableClock();
  readonly keys = new TokenKeys(Buffer.alloc(32, 7));
  readonly store: Store;
  readonly failures: unknown[] = [];
  /** What was sent to processes, of which there are none. */
  readonly signals: NodeJS.Signals[] = [];
  readonly services: Services;
  readonly tokens: Tokens;
  #feed: Feed | undefined;
  #authenticator: Authenticator | undefined;
  #known: KnownServices | undefined;
  #tokenSource: TokenSource;
  #certificates: readonly CertificateGrant[] = [];

  private constructor(database: TestDatabase, wrap: (source: TokenSource) => TokenSource) {
    this.database = database;
    const { clock, keys } = this;
    const store = new Store({ connection: { ...database.connection }, node: "here", log: silentLog });
    this.store = store;
    this.#tokenSource = wrap(store.tokens);
    const accounts = new Accounts({ ownUid: process.getuid?.() ?? -1, allowRoot: true });
    const limitRules = new LimitRules({ groups: undefined, unenforced: "refuse" });
    this.services = new Services({
      store,
      reader: store.services,
      known: { byName: (name) => this.known.byName(name) },
      revisions: store.specRevisions,
      processes: {
        signal: async (_, { signal, instanceId = "the current one", lookOnly }) => {
          if (!lookOnly) this.signals.push(signal);
          return instanceId;
        },
      },
      keys,
      hostChecks: new HostChecks({ accounts, limitRules, path: "/usr/bin:/bin" }),
      forbidden: [{ host: "127.0.0.1", port: 7700 }],
      clock,
      onRightsChanged: (uid) => this.authenticator.refreshService(uid),
    });
    this.tokens = new Tokens({
      store,
      reader: store.tokens,
      services: store.services,
      keys,
      clock,
      onTokensChanged: (ids) => this.authenticator.refreshTokens(ids),
    });
  }

  static async start(
    o: {
      on?: TestDatabase;
      wrap?: (source: TokenSource) => TokenSource;
      certificates?: readonly CertificateGrant[];
    } = {},
  ): Promise<Registry> {
    const database = o.on ?? (await createTestDatabase());
    if (o.on === undefined) onTestFinished(() => database.drop());
    const registry = new Registry(database, o.wrap ?? ((source) => source));
    registry.#certificates = o.certificates ?? [];
    onTestFinished(() => registry.stop());
    await registry.#start();
    return registry;
  }

  get authenticator(): Authenticator {
    if (this.#authenticator === undefined) throw new Error("the registry is not started");
    return this.#authenticator;
  }

  get known(): KnownServices {
    if (this.#known === undefined) throw new Error("the registry is not started");
    return this.#known;
  }

  /** Stops as a server does. Twice is fine. */
  async stop(): Promise<void> {
    await this.#known?.stop();
    await this.#authenticator?.stop();
    await this.#feed?.stop();
    await this.store.stop();
  }

  async events(): Promise<readonly Event[]> {
    return this.store.events.readAfter(0n, 10_000);
  }

  async eventTypes(): Promise<string[]> {
    return (await this.events()).map(({ body }) => body.type);
  }

  /** How much there is of everything that a write leaves behind. */
  async remains(): Promise<Record<string, number>> {
    const counts = ["services", "tokens", "events", "requests"].map(
      (table) => `(SELECT count(*)::int FROM ${table}) AS ${table}`,
    );
    const [row] = await this.rows<Record<string, number>>(
      `SELECT ${counts.join(", ")}, (SELECT head::int FROM store) AS revision`,
    );
    return row ?? {};
  }

  async rows<T extends pg.QueryResultRow>(text: string): Promise<T[]> {
    const client = new pg.Client({ ...this.database.connection });
    await client.connect();
    try {
      return (await client.query<T>(text)).rows;
    } finally {
      await client.end();
    }
  }

  async #start(): Promise<void> {
    const { store, clock, keys } = this;
    await store.start();
    const source = {
      readAfter: (revision: bigint, limit: number) => store.events.readAfter(revision, limit),
      bounds: () => store.events.bounds(),
      onAppended: (listener: () => void) => store.wakeups.onAppended(listener),
    };
    const onFailure = (error: unknown) => void this.failures.push(error);
    this.#feed = new Feed(source, { storeUid: store.storeUid, onFailure });
    await this.#feed.start();
    this.#authenticator = new Authenticator({
      source: this.#tokenSource,
      certificates: new CertificateHolders(this.#certificates, store.services),
      feed: this.#feed,
      keys,
      clock,
      onFailure,
    });
    await this.#authenticator.start();
    this.#known = new KnownServices({ source: store.services, feed: this.#feed, clock, onFailure });
    await this.#known.start();
  }
}
