import type { Clock } from "../domain/clock.ts";
import type { NewEvent } from "../domain/event.ts";
import type { Service, ServiceSpec, Wish } from "../domain/service.ts";
import type { ServiceStatus } from "../domain/status.ts";
import type { Token } from "../domain/token.ts";
import type { TokenKeys } from "../domain/token-secret.ts";
import { type Call, requestIdReused } from "./call.ts";
import { decodeAnswer, encodeAnswer } from "./idempotency.ts";

/** What the registry needs of a transaction. */
export interface RegistryTransaction {
  serviceByName(name: string, o?: { lock?: boolean }): Promise<Service | undefined>;
  serviceByUid(uid: string, o?: { lock?: boolean }): Promise<Service | undefined>;
  servicesOfSet(setName: string): Promise<Service[]>;
  servicesWished(wish: Wish): Promise<Service[]>;
  dependencies(): Promise<ReadonlyMap<string, readonly string[]>>;
  insertService(service: {
    readonly name: string;
    readonly uid: string;
    readonly spec: ServiceSpec;
    readonly apiTokenSealed: Buffer | undefined;
    readonly setName: string;
    readonly wish: Wish;
    readonly status: ServiceStatus;
  }): Promise<void>;
  updateService(
    service: Pick<Service, "uid" | "name">,
    patch: {
      readonly spec?: ServiceSpec;
      readonly apiTokenSealed?: Buffer | null;
      readonly wish?: Wish;
      readonly generation?: number;
      readonly resets?: number;
      readonly version?: number;
      readonly setName?: string;
      readonly status?: ServiceStatus;
    },
  ): Promise<void>;
  finishDeletion(uid: string): Promise<boolean>;
  specAt(uid: string, revision: bigint): Promise<ServiceSpec | undefined>;
  sealedApiToken(uid: string): Promise<Buffer | undefined>;
  insertToken(token: Token & { readonly digest: Buffer; readonly instanceId?: string }): Promise<void>;
  updateToken(id: string, patch: { expireTime?: Date; revokeTime?: Date; replacedBy?: string }): Promise<void>;
  tokenById(id: string): Promise<Token | undefined>;
  revokeTokens(serviceUid: string, at: Date, source?: Token["source"]): Promise<string[]>;
  claimRequest(
    principal: string,
    method: string,
    requestId: string,
    hash: string,
    expireTime: Date,
  ): Promise<{ readonly hash: string; readonly response: Buffer | undefined } | undefined>;
  rememberResponse(principal: string, method: string, requestId: string, response: Buffer): Promise<void>;
  append(event: NewEvent): void;
}

export interface RegistryWritten<T> {
  readonly value: T;
  readonly revision: bigint;
  readonly services: ReadonlyMap<string, Service>;
}

/** What the registry needs of the store to write. */
export interface RegistryStore {
  write<T>(
    work: (tx: RegistryTransaction) => Promise<T>,
    o?: {
      readonly dryRun?: boolean;
      readonly beforeCommit?: (tx: RegistryTransaction, written: RegistryWritten<T>) => Promise<void>;
    },
  ): Promise<RegistryWritten<T>>;
}

const rememberedMs = 24 * 3_600_000;

/** Runs the work of one call in one transaction, once for each request id, or only to see whether it would do. */
export class Writer {
  readonly #store: RegistryStore;
  readonly #keys: TokenKeys;
  readonly #clock: Clock;

  constructor(store: RegistryStore, keys: TokenKeys, clock: Clock) {
    this.#store = store;
    this.#keys = keys;
    this.#clock = clock;
  }

  /**
   * The same request id with the same request returns the first answer, with another request it is refused. The answer is stored, sealed because
   * it may hold a secret, in the transaction of its effect. Source: AIP-155. `answer` makes what the caller gets of what was written.
   */
  async run<T, A>(
    call: Call,
    work: (tx: RegistryTransaction) => Promise<T>,
    answer: (written: RegistryWritten<T>) => A,
  ): Promise<A> {
    if (call.validateOnly) return answer(await this.#store.write(work, { dryRun: true }));
    if (call.requestId === undefined) return answer(await this.#store.write(work));
    return this.#runOnce(call, call.requestId, work, answer);
  }

  async #runOnce<T, A>(
    call: Call,
    requestId: string,
    work: (tx: RegistryTransaction) => Promise<T>,
    answer: (written: RegistryWritten<T>) => A,
  ): Promise<A> {
    const caller = call.principal.serviceUid ?? call.principal.name;
    const expireTime = new Date(this.#clock.now().getTime() + rememberedMs);
    const { value, revision, services } = await this.#store.write<{ earlier: Buffer } | { done: T }>(
      async (tx) => {
        const first = await tx.claimRequest(caller, call.method, requestId, call.requestHash, expireTime);
        if (first !== undefined && first.hash !== call.requestHash) throw requestIdReused();
        return first?.response === undefined ? { done: await work(tx) } : { earlier: first.response };
      },
      {
        beforeCommit: async (tx, written) => {
          if ("earlier" in written.value) return;
          const given = answer({ ...written, value: written.value.done });
          await tx.rememberResponse(caller, call.method, requestId, this.#keys.seal(encodeAnswer(given)));
        },
      },
    );
    return "earlier" in value
      ? decodeAnswer<A>(this.#keys.open(value.earlier))
      : answer({ value: value.done, revision, services });
  }
}
