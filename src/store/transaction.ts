import { randomUUID } from "node:crypto";
import type { EventBody, NewEvent } from "../domain/event.ts";
import type { Route } from "../domain/route.ts";
import type { Service, ServiceSpec, Wish } from "../domain/service.ts";
import { nameKey } from "../domain/service-name.ts";
import type { Instance, ServiceStatus } from "../domain/status.ts";
import type { Token } from "../domain/token.ts";
import { saveInstances } from "./instances.ts";
import { decodeService, factJson, type ServiceImage } from "./json.ts";
import { type Queryable, query } from "./postgres.ts";
import { claimRequest, type RememberedRequest, rememberResponse } from "./requests.ts";
import { removeRoute, saveRoute } from "./routes.ts";
import {
  findService,
  insertService,
  type LockedService,
  lockDependencies,
  lockServices,
  lockSet,
  lockWished,
  type NewService,
  removeService,
  type ServicePatch,
  saveStatuses,
  sealedApiToken,
  updateService,
} from "./services.ts";
import { specAt } from "./spec-revisions.ts";
import { insertToken, lockToken, type NewToken, replaceInstanceToken, revokeTokens, updateToken } from "./tokens.ts";

/** What the last statement of a transaction tells. */
export interface Appended {
  readonly revision: bigint;
  /** The changed services as they are now, by uid. */
  readonly services: ReadonlyMap<string, Service>;
}

/**
 * One transaction on the store: what it changes and what it appends is committed together, or not at all. The statements of one service's name or
 * token are next to its noun; here is who was changed and what happened.
 */
export class Transaction {
  /** Stored with its events: what tells it from every other transaction there ever was. */
  readonly mark: string = randomUUID();
  readonly #on: Queryable;
  readonly #events: (NewEvent & { readonly after?: Service })[] = [];
  readonly #changed = new Set<string>();
  readonly #underWay: Promise<unknown>[] = [];

  constructor(on: Queryable) {
    this.#on = on;
  }

  /** Finds a service by its exact name, or by its name in another case: compare the names. */
  async serviceByName(name: string, { lock = false } = {}): Promise<Service | undefined> {
    return findService(this.#on, "name_key", nameKey(name), lock);
  }

  async serviceByUid(uid: string, { lock = false } = {}): Promise<Service | undefined> {
    return findService(this.#on, "uid", uid, lock);
  }

  /** The services that there are of these, locked, by uid. */
  async lockServices(uids: readonly string[]): Promise<Map<string, LockedService>> {
    const services = await lockServices(this.#on, uids);
    return new Map(services.map((service) => [service.uid, service]));
  }

  /** The services of a set by name, locked. */
  async servicesOfSet(setName: string): Promise<Service[]> {
    return lockSet(this.#on, setName);
  }

  /** The services with this wish by name, locked. */
  async servicesWished(wish: Wish): Promise<Service[]> {
    return lockWished(this.#on, wish);
  }

  /**
   * Of every service that is not on its way out the keys of those that it depends on, by its key; as this transaction has them, and the same until it
   * ends: who else asks waits for it.
   */
  async dependencies(): Promise<ReadonlyMap<string, readonly string[]>> {
    return lockDependencies(this.#on);
  }

  /** Throws already_exists SERVICE_EXISTS. */
  async insertService(service: NewService): Promise<void> {
    this.#changed.add(service.uid);
    await insertService(this.#on, service);
  }

  async updateService(service: Pick<Service, "uid" | "name">, patch: ServicePatch): Promise<void> {
    this.#changed.add(service.uid);
    await updateService(this.#on, service, patch);
  }

  /** By uid. */
  async saveStatuses(statuses: ReadonlyMap<string, ServiceStatus>): Promise<void> {
    for (const uid of statuses.keys()) this.#changed.add(uid);
    await saveStatuses(this.#on, statuses);
  }

  /** Removes a service that is wished deleted and of which nothing lives any more; returns whether it did. */
  async finishDeletion(uid: string): Promise<boolean> {
    const last = await this.serviceByUid(uid, { lock: true });
    if (last?.wish !== "deleted" || !(await removeService(this.#on, uid))) return false;
    this.#changed.delete(uid);
    this.#events.push({
      body: { type: "service_deleted" },
      service: { name: last.name, uid, generation: last.generation },
      actor: "steward",
      requestId: undefined,
      message: "the service is gone",
      after: last,
    });
    return true;
  }

  /** The spec that a service was given at a revision, if it is kept. */
  async specAt(uid: string, revision: bigint): Promise<ServiceSpec | undefined> {
    return specAt(this.#on, uid, revision);
  }

  async sealedApiToken(uid: string): Promise<Buffer | undefined> {
    return sealedApiToken(this.#on, uid);
  }

  /** Throws already_exists TOKEN_IN_USE. */
  async insertToken(token: NewToken): Promise<void> {
    await insertToken(this.#on, token);
  }

  /** Inserts the token of a new instance; those of earlier instances of its service are revoked. */
  async replaceInstanceToken(token: NewToken): Promise<void> {
    await replaceInstanceToken(this.#on, token);
  }

  async updateToken(id: string, patch: { expireTime?: Date; revokeTime?: Date; replacedBy?: string }): Promise<void> {
    await updateToken(this.#on, id, patch);
  }

  /** Finds a token and locks it. */
  async tokenById(id: string): Promise<Token | undefined> {
    return lockToken(this.#on, id);
  }

  /** Ends the tokens of a service at once, all or those of one source; returns their ids. */
  async revokeTokens(serviceUid: string, at: Date, source?: Token["source"]): Promise<string[]> {
    return revokeTokens(this.#on, serviceUid, at, source);
  }

  async saveInstance(instance: Instance): Promise<void> {
    await this.saveInstances([instance]);
  }

  /** Inserts them, or updates them by their ids, one after the other; no id may come twice. */
  async saveInstances(instances: readonly Instance[]): Promise<void> {
    await saveInstances(this.#on, instances);
  }

  async saveRoute(route: Route): Promise<void> {
    this.#changed.add(route.serviceUid);
    await saveRoute(this.#on, route);
  }

  async removeRoute(serviceUid: string): Promise<void> {
    this.#changed.add(serviceUid);
    await removeRoute(this.#on, serviceUid);
  }

  /** Claims a request id, or finds who had it first; of two at once the second waits for the first. */
  async claimRequest(
    principal: string,
    method: string,
    requestId: string,
    hash: string,
    expireTime: Date,
  ): Promise<RememberedRequest | undefined> {
    return claimRequest(this.#on, { principal, method, requestId }, hash, expireTime);
  }

  async rememberResponse(principal: string, method: string, requestId: string, response: Buffer): Promise<void> {
    await rememberResponse(this.#on, { principal, method, requestId }, response);
  }

  get hasEvents(): boolean {
    return this.#events.length > 0;
  }

  /** Notes what happened. It is numbered when the transaction ends. */
  append(event: NewEvent): void {
    this.#events.push(event);
    if (event.service !== undefined) this.#changed.add(event.service.uid);
  }

  /** Statements whose answers tell nothing, unless they fail: then so does the transaction. Nobody waits for them before its end. */
  leaveUnderWay(statements: readonly Promise<unknown>[]): void {
    for (const statement of statements) statement.catch(() => undefined);
    this.#underWay.push(...statements);
  }

  /** The last statement: numbers and stores the events. Undefined if there are none. `withServices`: whether the changed services are asked for. */
  async close(node: string, withServices: boolean): Promise<Appended | undefined> {
    const appending = this.hasEvents ? this.#appendEvents(node, withServices) : undefined;
    // What failed first says why.
    await Promise.all([...this.#underWay, appending]);
    return appending;
  }

  async #appendEvents(node: string, withServices: boolean): Promise<Appended> {
    const rows = await query<{ revision: bigint; uid: string | null; image: ServiceImage | null }>(
      this.#on,
      withServices
        ? "SELECT revision, uid, image FROM append_events($1, $2, $3)"
        : "SELECT revision, NULL AS uid, NULL AS image FROM append_events($1, $2, $3) LIMIT 1",
      [factJson(this.#events.map((event) => ({ ...encodeEvent(event), mark: this.mark }))), [...this.#changed], node],
      withServices ? "append events" : "append events, no more",
    );
    const [first] = rows;
    if (first === undefined) throw new Error("append_events returned nothing");
    const services = rows.flatMap(({ uid, image }) =>
      uid === null || image === null ? [] : [[uid, decodeService(image)] as const],
    );
    return { revision: first.revision, services: new Map(services) };
  }
}

/** The caller is kept beside the body's own members: it is read with it and with nothing else. */
function encodeEvent({ service, after, caller, body, ...event }: NewEvent & { readonly after?: Service }): object {
  const of = { service: service?.name, serviceUid: service?.uid, generation: service?.generation };
  return {
    ...event,
    ...of,
    body: { ...encodeBody(body), caller },
    after: after === undefined ? undefined : encodeImage(after),
  };
}

function encodeBody(body: EventBody): object {
  if (body.type !== "service_updated" || body.rolledBackTo === undefined) return body;
  return { ...body, rolledBackTo: String(body.rolledBackTo) };
}

/** The image of a service that is gone, as service_image() would have made it. */
function encodeImage(service: Service): object {
  return { ...service, revision: String(service.revision), route: null };
}
