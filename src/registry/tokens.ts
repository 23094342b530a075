import { randomUUID } from "node:crypto";
import type { Clock } from "../domain/clock.ts";
import { AppError, invalid, serviceNotFound } from "../domain/errors.ts";
import { decodePageToken, encodePageToken, pageSizeOf } from "../domain/page.ts";
import { allScopes, covers } from "../domain/principal.ts";
import type { Service } from "../domain/service.ts";
import { type Token, tokenState } from "../domain/token.ts";
import { hintOf, mintSecret, type TokenKeys } from "../domain/token-secret.ts";
import { type Call, checkNotDeleting, eventOf } from "./call.ts";
import { lockService } from "./changes.ts";
import { type RegistryStore, type RegistryTransaction, Writer } from "./writer.ts";

/** What the registry needs of the store to read tokens. */
export interface TokenReader {
  page(o: {
    serviceUid: string | undefined;
    showEnded: boolean;
    after: { time: Date; id: string } | undefined;
    limit: number;
  }): Promise<readonly Token[]>;
  byId(id: string): Promise<{ readonly token: Token } | undefined>;
}

export interface TokensOptions {
  readonly store: RegistryStore;
  readonly reader: TokenReader;
  readonly services: {
    byName(name: string): Promise<{ service: Service | undefined; revision: bigint }>;
    sealedApiToken(uid: string): Promise<Buffer | undefined>;
  };
  readonly keys: TokenKeys;
  readonly clock: Clock;
  /** Called after a change, before the call returns. */
  readonly onTokensChanged: (tokenIds: readonly string[]) => Promise<void>;
}

/** Minted, and shown this once. */
export interface Issued {
  readonly token: Token;
  /** Empty of a call that only validates. */
  readonly secret: string;
  readonly revision: bigint;
}

const defaultOverlapMs = 24 * 3_600_000;

export class Tokens {
  readonly #options: TokensOptions;
  readonly #writer: Writer;

  constructor(options: TokensOptions) {
    this.#options = options;
    this.#writer = new Writer(options.store, options.keys, options.clock);
  }

  /** Issues a token of a service, or of the operator where no service is named; it never grants more than its issuer has. */
  async issue(
    call: Call,
    request: { service: string; scopes: readonly string[]; note: string; ttlMs: number | undefined },
  ): Promise<Issued> {
    const scopes = request.scopes.length === 0 ? ["inherit"] : [...request.scopes];
    this.#checkScopes(call, scopes, request.service);
    const secret = mintSecret();
    const issued = await this.#writer.run(
      call,
      async (tx) => {
        const service = request.service === "" ? undefined : await lockService(tx, request.service);
        if (service !== undefined) checkNotDeleting(service);
        checkInherited(call, scopes, service);
        const now = this.#options.clock.now();
        const expireTime = request.ttlMs === undefined ? undefined : new Date(now.getTime() + request.ttlMs);
        const token = this.#newToken({
          service,
          scopes,
          note: request.note,
          source: "issued",
          createdBy: call.principal.name,
          secret,
          expireTime,
        });
        await tx.insertToken({ ...token, digest: this.#options.keys.digest(secret) });
        tx.append(
          eventOf(call, service, { type: "token_issued", tokenId: token.id }, `${call.principal.name} issued a token`),
        );
        return token;
      },
      ({ value, revision }) => ({ token: value, secret, revision }),
    );
    return this.#finish(call, issued, [issued.token.id]);
  }

  async list(request: {
    service: string;
    showEnded: boolean;
    pageSize: number;
    pageToken: string;
  }): Promise<{ tokens: Token[]; nextPageToken: string; revision: bigint }> {
    const { service, revision } = await this.#options.services.byName(request.service);
    if (request.service !== "" && service === undefined) throw serviceNotFound(request.service);
    const size = pageSizeOf(request);
    const list = ["tokens", request.service, String(request.showEnded)];
    const after = parsePlace(decodePageToken(list, request.pageToken));
    const page = await this.#options.reader.page({
      serviceUid: service?.uid,
      showEnded: request.showEnded,
      after,
      limit: size + 1,
    });
    const tokens = page.slice(0, size);
    const last = tokens.at(-1);
    const nextPageToken =
      page.length > size && last !== undefined
        ? encodePageToken(list, `${last.createTime.toISOString()} ${last.id}`)
        : "";
    return { tokens, nextPageToken, revision };
  }

  /** The owner of a token, to decide who may change it. */
  async ownerOf(tokenId: string): Promise<string | undefined> {
    const found = await this.#options.reader.byId(tokenId);
    if (found === undefined) throw tokenNotFound(tokenId);
    return found.token.service?.name;
  }

  /** Issues a successor with the same rights and lets the old token work for the overlap. */
  async rotate(
    call: Call,
    request: { tokenId: string; overlapMs: number | undefined },
  ): Promise<Issued & { replaced: Token }> {
    const secret = mintSecret();
    const rotated = await this.#writer.run(
      call,
      (tx) =>
        this.#rotate(tx, call, { tokenId: request.tokenId, overlapMs: request.overlapMs ?? defaultOverlapMs, secret }),
      ({ value, revision }) => ({ ...value, secret, revision }),
    );
    return this.#finish(call, rotated, [rotated.token.id, request.tokenId]);
  }

  /** Ends a token at once; one that ended stays as it is. Undefined token: it was missing, and that was allowed. */
  async revoke(
    call: Call,
    request: { tokenId: string; allowMissing?: boolean },
  ): Promise<{ token: Token | undefined; revision: bigint }> {
    const answer = await this.#writer.run(
      call,
      async (tx) => {
        const token = await tx.tokenById(request.tokenId);
        if (token === undefined && request.allowMissing === true) return undefined;
        if (token === undefined) throw tokenNotFound(request.tokenId);
        if (token.revokeTime !== undefined) return token;
        const revokeTime = this.#options.clock.now();
        await tx.updateToken(token.id, { revokeTime });
        tx.append(
          eventOf(
            call,
            await ownerOf(tx, token),
            { type: "token_revoked", tokenId: token.id },
            `${call.principal.name} revoked a token`,
          ),
        );
        return { ...token, revokeTime };
      },
      ({ value, revision }) => ({ token: value, revision: value === undefined ? 0n : revision }),
    );
    if (!call.validateOnly) await this.#options.onTokensChanged([request.tokenId]);
    return answer;
  }

  /** The first token of a new store, for the local operator. */
  async bootstrap(): Promise<string> {
    const secret = mintSecret();
    const token = this.#newToken({
      service: undefined,
      scopes: ["inherit"],
      note: "made at the first start",
      source: "bootstrap",
      createdBy: "steward",
      secret,
      expireTime: undefined,
    });
    await this.#options.store.write(async (tx) => {
      await tx.insertToken({ ...token, digest: this.#options.keys.digest(secret) });
      tx.append({
        body: { type: "token_issued", tokenId: token.id },
        service: undefined,
        actor: "steward",
        requestId: undefined,
        message: "the operator's first token",
      });
    });
    await this.#options.onTokensChanged([token.id]);
    return secret;
  }

  /**
   * The token that an instance of a managed service gets in its environment: the supplied one, else a new one that ends when the instance is
   * replaced and must be stored with the intent to start it.
   */
  async forInstance(
    service: Service,
    instanceId: string,
  ): Promise<{ secret: string; token: (Token & { digest: Buffer; instanceId: string }) | undefined }> {
    const { keys, services } = this.#options;
    const sealed = service.spec.apiTokenSet ? await services.sealedApiToken(service.uid) : undefined;
    if (sealed !== undefined) return { secret: keys.open(sealed), token: undefined };
    const secret = mintSecret();
    const token = this.#newToken({
      service,
      scopes: ["inherit"],
      note: "generated for one instance",
      source: "instance",
      createdBy: "steward",
      secret,
      expireTime: undefined,
    });
    return { secret, token: { ...token, digest: keys.digest(secret), instanceId } };
  }

  async #rotate(
    tx: RegistryTransaction,
    call: Call,
    request: { tokenId: string; overlapMs: number; secret: string },
  ): Promise<{ token: Token; replaced: Token }> {
    const { keys, clock } = this.#options;
    const old = await findToken(tx, request.tokenId);
    this.#checkScopes(call, old.scopes, old.service?.name ?? "");
    const now = clock.now();
    if (tokenState(old, now) !== "active" || old.replacedBy !== undefined) throw tokenEnded(old);
    if (old.source === "supplied" || old.source === "instance") throw notRotatable(old);
    const owner = await ownerOf(tx, old);
    checkInherited(call, old.scopes, owner);
    const token = this.#newToken({
      service: owner,
      scopes: old.scopes,
      note: old.note,
      source: "issued",
      createdBy: call.principal.name,
      secret: request.secret,
      expireTime: old.expireTime,
    });
    await tx.insertToken({ ...token, digest: keys.digest(request.secret) });
    const end = new Date(now.getTime() + request.overlapMs);
    const expireTime = old.expireTime !== undefined && old.expireTime < end ? old.expireTime : end;
    await tx.updateToken(old.id, { expireTime, replacedBy: token.id });
    tx.append(
      eventOf(
        call,
        owner,
        { type: "token_rotated", tokenId: old.id, replacedBy: token.id },
        `${call.principal.name} rotated a token`,
      ),
    );
    return { token, replaced: { ...old, expireTime, replacedBy: token.id } };
  }

  #checkScopes(call: Call, scopes: readonly string[], service: string): void {
    const known = new Set<string>(allScopes);
    for (const [index, scope] of scopes.entries()) {
      const field = `scopes[${index}]`;
      const [, name = ""] = /^([^!]*)(?:!service=[A-Za-z0-9._-]{1,63})?$/.exec(scope) ?? [];
      if (scope !== "inherit" && !known.has(name)) {
        throw invalid({
          field,
          description: `${JSON.stringify(scope)} is neither inherit nor one of ${[...known].join(", ")}, with or without !service=NAME`,
        });
      }
      // An operator's token that inherits may do everything; what a service's may do depends on the service (checkInherited).
      const needed = scope === "inherit" && service === "" ? "*" : scope;
      if (needed !== "inherit" && !covers(call.principal, needed)) throw grantsTooMuch(scope);
    }
  }

  #newToken(o: {
    service: Pick<Service, "name" | "uid"> | undefined;
    scopes: readonly string[];
    note: string;
    source: Token["source"];
    createdBy: string;
    secret: string;
    expireTime: Date | undefined;
  }): Token {
    return {
      id: randomUUID(),
      service: o.service === undefined ? undefined : { name: o.service.name, uid: o.service.uid },
      hint: hintOf(o.secret),
      scopes: o.scopes,
      note: o.note,
      source: o.source,
      createdBy: o.createdBy,
      createTime: this.#options.clock.now(),
      expireTime: o.expireTime,
      revokeTime: undefined,
      lastUsedTime: undefined,
      replacedBy: undefined,
    };
  }

  async #finish<T extends Issued>(call: Call, issued: T, tokenIds: readonly string[]): Promise<T> {
    if (call.validateOnly) return { ...issued, token: { ...issued.token, id: "", hint: "" }, secret: "" };
    await this.#options.onTokensChanged(tokenIds);
    return issued;
  }
}

async function findToken(tx: RegistryTransaction, id: string): Promise<Token> {
  const token = await tx.tokenById(id);
  if (token === undefined) throw tokenNotFound(id);
  return token;
}

async function ownerOf(tx: RegistryTransaction, token: Token): Promise<Service | undefined> {
  return token.service === undefined ? undefined : tx.serviceByUid(token.service.uid);
}

/** A token that inherits from an admin service may do everything, and so must its issuer. */
function checkInherited(call: Call, scopes: readonly string[], owner: Service | undefined): void {
  if (owner?.spec.admin === true && scopes.includes("inherit") && !covers(call.principal, "*"))
    throw grantsTooMuch("inherit");
}

function grantsTooMuch(scope: string): AppError {
  return new AppError(
    "permission_denied",
    "SCOPE_MISSING",
    `a token cannot grant ${scope}: its issuer does not have it`,
    { metadata: { scope } },
  );
}

function tokenNotFound(id: string): AppError {
  return new AppError("not_found", "TOKEN_NOT_FOUND", `no token with the id ${JSON.stringify(id)}`, {
    metadata: { token_id: id },
    resource: { type: "token", name: id },
  });
}

function tokenEnded(token: Token): AppError {
  const reason = token.revokeTime === undefined ? "TOKEN_EXPIRED" : "TOKEN_REVOKED";
  return new AppError(
    "failed_precondition",
    reason,
    `the token ${token.id} was rotated or has ended; issue a new one`,
    { metadata: { token_id: token.id } },
  );
}

function notRotatable(token: Token): AppError {
  const how = token.source === "supplied" ? "change the api_token of its service" : "restart its service";
  return new AppError(
    "failed_precondition",
    "TOKEN_IN_USE",
    `the token ${token.id} belongs to its service's process: ${how} instead`,
    {
      metadata: { token_id: token.id },
    },
  );
}

function parsePlace(place: string | undefined): { time: Date; id: string } | undefined {
  const [time, id] = place?.split(" ") ?? [];
  return time === undefined || id === undefined ? undefined : { time: new Date(time), id };
}
