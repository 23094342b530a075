import { setTimeout as delay } from "node:timers/promises";
import { AppError } from "../domain/errors.ts";
import type { EventBody } from "../domain/event.ts";
import type { Route } from "../domain/route.ts";
import type { Wish } from "../domain/service.ts";
import type { Instance, ServiceStatus } from "../domain/status.ts";
import type { LockedService } from "./services.ts";
import type { NewToken } from "./tokens.ts";
import type { Transaction } from "./transaction.ts";

/** Something that a keeper saw or did, with the state that follows from it. Written together or not at all. */
export interface FactChange {
  /** The service that it is of; undefined for facts of the node or the proxy. */
  readonly serviceUid?: string;
  readonly status?: ServiceStatus;
  /** Inserted, or updated by their ids, in this order: of two that change their roles the one that makes room comes first. */
  readonly instances?: readonly Instance[];
  /** Inserted; the tokens of earlier instances are revoked. */
  readonly instanceToken?: NewToken;
  readonly route?: Route | { readonly removed: true };
  readonly events: readonly { readonly body: EventBody; readonly message: string }[];
  /**
   * Only if all of this still is so: the wish, for the durable intent before a start; the version, for a status that follows from the spec. Rejected with
   * `aborted` otherwise, and nothing is written.
   */
  readonly guard?: Guard;
}

/** What a service must still be. */
export interface Guard {
  readonly generation?: number;
  readonly wish?: Wish;
  readonly version?: number;
}

/** What the recorder needs of the store. */
export interface FactStore {
  write<T>(
    work: (tx: Transaction) => Promise<T>,
    o: { readonly settling: AbortSignal; readonly withServices: false },
  ): Promise<{ value: T; revision: bigint }>;
}

const largestBatch = 100;

/**
 * Writes facts in the order in which they come. While one transaction is on its way the next ones gather, so that a burst costs few
 * revisions (group commit). While the database is away the facts wait; nothing is lost but by the end of this process, and nothing written twice.
 */
export class FactRecorder {
  readonly #store: FactStore;
  readonly #stopping = new AbortController();
  #waiting: Pending[] = [];
  #writing: Promise<void> | undefined;

  constructor(store: FactStore) {
    this.#store = store;
  }

  /** Facts that wait for their turn. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** Resolves with the revision once the fact is durable. */
  record(change: FactChange): Promise<bigint> {
    if (this.#stopping.signal.aborted) return Promise.reject(stopped());
    return new Promise((resolve, reject) => {
      this.#waiting.push({ change, resolve, reject });
      this.#writing ??= this.#writeAll();
    });
  }

  /** Writes what waits if the database answers, else rejects it. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#writing;
  }

  async #writeAll(): Promise<void> {
    // The first fact of a burst waits for the others of the same tick.
    await Promise.resolve();
    for (let batch = this.#take(); batch.length > 0; batch = this.#take()) await this.#writeBatch(batch);
    this.#writing = undefined;
  }

  #take(): Pending[] {
    return this.#waiting.splice(0, largestBatch);
  }

  async #writeBatch(batch: readonly Pending[]): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      try {
        const { value: refused, revision } = await this.#store.write((tx) => applyAll(tx, batch), {
          settling: this.#stopping.signal,
          withServices: false,
        });
        for (const pending of batch) {
          if (refused.has(pending)) pending.reject(new AppError("aborted", "ETAG_MISMATCH", "the service has changed"));
          else pending.resolve(revision);
        }
        return;
      } catch (error) {
        if (isPassing(error) && !this.#stopping.signal.aborted) await this.#pause(attempt);
        else if (batch.length > 1 && !isPassing(error)) return this.#writeEach(batch);
        else return batch.forEach((pending) => pending.reject(error));
      }
    }
  }

  /** One bad fact must not take the others with it. */
  async #writeEach(batch: readonly Pending[]): Promise<void> {
    for (const pending of batch) await this.#writeBatch([pending]);
  }

  async #pause(attempt: number): Promise<void> {
    await delay(Math.min(2_000, 100 * 2 ** attempt), undefined, { signal: this.#stopping.signal }).catch(
      () => undefined,
    );
  }
}

interface Pending {
  readonly change: FactChange;
  readonly resolve: (revision: bigint) => void;
  readonly reject: (error: unknown) => void;
}

/** Carries out a batch in its order; returns those whose wish has changed. Statements do not wait for each other's answers. */
async function applyAll(tx: Transaction, batch: readonly Pending[]): Promise<Set<Pending>> {
  const uids = new Set(batch.flatMap(({ change }) => change.serviceUid ?? []));
  const services = await tx.lockServices([...uids]);
  const refused = new Set<Pending>();
  const statuses = new Map<string, ServiceStatus>();
  const instances: Instance[] = [];
  const statements: Promise<unknown>[] = [];
  for (const pending of batch) {
    const { change } = pending;
    const service = services.get(change.serviceUid ?? "");
    if (!isStillSo(service, change.guard)) {
      refused.add(pending);
      continue;
    }
    statements.push(...apply(tx, service, change));
    instances.push(...(change.instances ?? []));
    if (service !== undefined && change.status !== undefined) statuses.set(service.uid, change.status);
  }
  for (const each of withoutRepetition(instances)) statements.push(tx.saveInstances(each));
  // Of several statuses only the last one is seen by anybody.
  if (statuses.size > 0) statements.push(tx.saveStatuses(statuses));
  const leaving = [...services.values()].filter(({ wish }) => wish === "deleted");
  if (leaving.length === 0) tx.leaveUnderWay(statements);
  else await Promise.all(statements);
  for (const { uid } of leaving) await tx.finishDeletion(uid);
  return refused;
}

/** In the same order, in pieces of which none has an instance twice. */
function withoutRepetition(instances: readonly Instance[]): Instance[][] {
  const pieces: Map<string, Instance>[] = [];
  for (const instance of instances) {
    const last = pieces.at(-1);
    if (last === undefined || last.has(instance.id)) pieces.push(new Map([[instance.id, instance]]));
    else last.set(instance.id, instance);
  }
  return pieces.map((piece) => [...piece.values()]);
}

function isStillSo(service: LockedService | undefined, guard: FactChange["guard"]): boolean {
  if (guard === undefined) return true;
  if (service === undefined) return false;
  const { generation = service.generation, wish = service.wish, version = service.version } = guard;
  return service.generation === generation && service.wish === wish && service.version === version;
}

/** Starts the statements of one fact and notes its events. */
function apply(tx: Transaction, service: LockedService | undefined, change: FactChange): Promise<unknown>[] {
  const { instanceToken, route } = change;
  const statements: Promise<unknown>[] = [];
  if (service !== undefined) {
    if (instanceToken !== undefined) statements.push(tx.replaceInstanceToken(instanceToken));
    if (route !== undefined) statements.push("removed" in route ? tx.removeRoute(service.uid) : tx.saveRoute(route));
  }
  const of = service && { name: service.name, uid: service.uid, generation: service.generation };
  for (const { body, message } of change.events)
    tx.append({ body, service: of, actor: "steward", requestId: undefined, message });
  return statements;
}

function isPassing(error: unknown): boolean {
  return error instanceof AppError && error.code === "unavailable";
}

function stopped(): AppError {
  return new AppError("unavailable", "SERVER_DRAINING", "the server stops", { retryAfterMs: 1_000 });
}
