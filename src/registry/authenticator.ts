import { hash, timingSafeEqual } from "node:crypto";
import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import type { Cursor, Event } from "../domain/event.ts";
import type { ClientCertificate, Principal } from "../domain/principal.ts";
import { type Token, tokenState } from "../domain/token.ts";
import type { TokenKeys } from "../domain/token-secret.ts";
import type { Feed } from "../events/feed.ts";
import type { CertificateHolders } from "./certificate-holders.ts";

/** A token with what deciding on a call needs of it and of its owner. */
export interface TokenWithOwner {
  readonly token: Token;
  readonly digest: Buffer;
  readonly ownerAdmin: boolean;
}

/** What authentication needs of the store. */
export interface TokenSource {
  all(): Promise<readonly TokenWithOwner[]>;
  ofService(serviceUid: string): Promise<readonly TokenWithOwner[]>;
  byId(id: string): Promise<TokenWithOwner | undefined>;
  noteUse(uses: ReadonlyMap<string, Date>): Promise<void>;
}

export interface AuthenticatorOptions {
  readonly source: TokenSource;
  readonly certificates: CertificateHolders;
  readonly feed: Pick<Feed, "follow" | "head">;
  readonly keys: TokenKeys;
  readonly clock: Clock;
  readonly onFailure: (error: unknown) => void;
}

const noteUseEveryMs = 30_000;
const mostHashes = 10_000;

/**
 * Tells whose token a call carries, from memory: a query for each call would halve the rate. What this process changes is known when its call
 * returns, what others change as soon as the event log tells.
 */
export class Authenticator {
  readonly #options: AuthenticatorOptions;
  readonly #byDigest = new Map<string, TokenWithOwner>();
  readonly #digestOfId = new Map<string, string>();
  /** The digests of secrets that were good before, by a hash that costs each call less: the keys are as secret as the pepper, in the same memory. */
  readonly #digestOfHash = new Map<string, string>();
  readonly #idsOfService = new Map<string, Set<string>>();
  readonly #uses = new Map<string, Date>();
  readonly #stopping = new AbortController();
  #following: Promise<void> | undefined;
  #refreshing: Promise<unknown> = Promise.resolve();
  #noting: NodeJS.Timeout | undefined;

  constructor(options: AuthenticatorOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    this.#following = this.#follow(await this.#readAll());
    this.#noting = setInterval(() => void this.#noteUses(), noteUseEveryMs);
    this.#noting.unref();
  }

  async stop(): Promise<void> {
    clearInterval(this.#noting);
    this.#stopping.abort();
    await this.#following;
    await this.#noteUses();
  }

  /** Who may do what with this secret now. Throws unauthenticated. */
  authenticate(secret: string): Principal {
    const quick = hash("sha256", secret, "base64");
    const known = this.#digestOfHash.get(quick);
    const found = (known === undefined ? undefined : this.#byDigest.get(known)) ?? this.#find(secret, quick);
    return this.#principalOf(found);
  }

  /** Who may do what with this client certificate now. Throws unauthenticated. */
  authenticateCertificate(certificate: ClientCertificate): Principal {
    return this.#options.certificates.principalOf(certificate, this.#options.clock.now());
  }

  /** The same for a caller that was let in before: a stream that outlives its token must end. */
  reauthenticate(principal: Principal): Principal {
    const digest = this.#digestOfId.get(principal.tokenId);
    const found = digest === undefined ? undefined : this.#byDigest.get(digest);
    if (found === undefined) throw refused("TOKEN_REVOKED", "the token is gone");
    return this.#principalOf(found);
  }

  /** Reads the tokens of a service again: what they may do has changed, or some ended. */
  async refreshService(serviceUid: string): Promise<void> {
    await this.#inTurn(async () => {
      const { source, certificates } = this.#options;
      const [fresh] = await Promise.all([source.ofService(serviceUid), certificates.refresh()]);
      for (const id of [...(this.#idsOfService.get(serviceUid) ?? [])]) this.#forget(id);
      for (const each of fresh) this.#keep(each);
    });
  }

  async refreshTokens(tokenIds: readonly string[]): Promise<void> {
    await this.#inTurn(async () => {
      for (const id of tokenIds) {
        const fresh = await this.#options.source.byId(id);
        if (fresh !== undefined) this.#keep(fresh);
        else this.#forget(id);
      }
    });
  }

  #find(secret: string, quick: string): TokenWithOwner {
    const digest = this.#options.keys.digest(secret);
    const key = digest.toString("base64");
    const found = this.#byDigest.get(key);
    if (found === undefined || !timingSafeEqual(found.digest, digest)) throw refused("TOKEN_INVALID", "no such token");
    if (this.#digestOfHash.size >= mostHashes) this.#digestOfHash.clear();
    this.#digestOfHash.set(quick, key);
    return found;
  }

  /** One read after the other: an answer that is late must not bring back what a later one has seen end. */
  #inTurn<T>(read: () => Promise<T>): Promise<T> {
    const turn = this.#refreshing.then(read);
    this.#refreshing = turn.catch(() => undefined);
    return turn;
  }

  /** Reads everything anew; returns from where on the log tells what changes. */
  async #readAll(): Promise<Cursor> {
    const { feed, source, certificates } = this.#options;
    return this.#inTurn(async () => {
      const from = { storeUid: "", revision: feed.head };
      const [all] = await Promise.all([source.all(), certificates.refresh()]);
      this.#byDigest.clear();
      this.#digestOfId.clear();
      this.#idsOfService.clear();
      for (const each of all) this.#keep(each);
      return from;
    });
  }

  #principalOf({ token, ownerAdmin }: TokenWithOwner): Principal {
    const now = this.#options.clock.now();
    const state = tokenState(token, now);
    if (state === "revoked") throw refused("TOKEN_REVOKED", "the token was revoked");
    if (state === "expired") throw refused("TOKEN_EXPIRED", "the token has expired");
    this.#uses.set(token.id, now);
    return {
      kind: token.service === undefined ? "operator" : "service",
      name: token.service?.name ?? "operator",
      serviceUid: token.service?.uid,
      tokenId: token.id,
      tokenExpireTime: token.expireTime,
      scopes: rightsOf(token, ownerAdmin),
    };
  }

  /** Never ends by itself: who falls out of the log reads everything anew and follows from there. */
  async #follow(from: Cursor): Promise<void> {
    const { feed } = this.#options;
    const { signal } = this.#stopping;
    for (let after: Cursor | undefined = from; after !== undefined; ) {
      try {
        for await (const item of feed.follow({ after, select: ofTokens, signal, follower: "tokens" })) {
          if (item.kind === "events") for (const event of item.events) await this.#apply(event);
        }
        return;
      } catch (error) {
        if (signal.aborted) return;
        this.#options.onFailure(error);
        await this.#pause();
        after = await this.#persist(() => this.#readAll());
      }
    }
  }

  async #apply(event: Event): Promise<void> {
    await this.#persist(async () => {
      if (event.service !== undefined) await this.refreshService(event.service.uid);
      else if ("tokenId" in event.body)
        await this.refreshTokens([event.body.tokenId, ...("replacedBy" in event.body ? [event.body.replacedBy] : [])]);
    });
  }

  /** Keeps trying until stopped: while what a token may do is not known, the old answer could be wrong. */
  async #persist<T>(read: () => Promise<T>): Promise<T | undefined> {
    while (!this.#stopping.signal.aborted) {
      try {
        return await read();
      } catch (error) {
        this.#options.onFailure(error);
        await this.#pause();
      }
    }
    return undefined;
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => this.#options.clock.after(200, resolve));
  }

  #keep(each: TokenWithOwner): void {
    const digest = each.digest.toString("base64");
    this.#byDigest.set(digest, each);
    this.#digestOfId.set(each.token.id, digest);
    const uid = each.token.service?.uid;
    if (uid === undefined) return;
    const ids = this.#idsOfService.get(uid) ?? new Set();
    this.#idsOfService.set(uid, ids.add(each.token.id));
  }

  #forget(id: string): void {
    const digest = this.#digestOfId.get(id);
    this.#digestOfId.delete(id);
    if (digest === undefined) return;
    const uid = this.#byDigest.get(digest)?.token.service?.uid;
    this.#byDigest.delete(digest);
    if (uid === undefined) return;
    const ids = this.#idsOfService.get(uid);
    ids?.delete(id);
    if (ids?.size === 0) this.#idsOfService.delete(uid);
  }

  async #noteUses(): Promise<void> {
    if (this.#uses.size === 0) return;
    const uses = new Map(this.#uses);
    this.#uses.clear();
    try {
      await this.#options.source.noteUse(uses);
    } catch (error) {
      this.#options.onFailure(error);
    }
  }
}

/** What a token may do now: its scopes within the rights of its owner. A service that is no admin may only learn who it is. */
function rightsOf(token: Token, ownerAdmin: boolean): readonly string[] {
  if (token.service !== undefined && !ownerAdmin) return [];
  return token.scopes.includes("inherit") ? ["*"] : token.scopes;
}

function ofTokens(events: readonly Event[]): Event[] {
  return events.filter(touchesTokens);
}

function touchesTokens(event: Event): boolean {
  switch (event.body.type) {
    case "token_issued":
    case "token_rotated":
    case "token_revoked":
    case "service_created":
    case "service_updated":
    case "service_deleted":
    case "wish_changed":
    case "instance_starting":
      return true;
    default:
      return false;
  }
}

function refused(reason: "TOKEN_INVALID" | "TOKEN_EXPIRED" | "TOKEN_REVOKED", message: string): AppError {
  return new AppError("unauthenticated", reason, message);
}
