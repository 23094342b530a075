import {
  ApplyAction,
  PrincipalKind,
  type ServiceRegistry as ServiceRegistryDesc,
} from "../../gen/steward/v1/service_registry_pb.ts";
import type { Clock } from "../domain/clock.ts";
import { AppError, invalid } from "../domain/errors.ts";
import { allow, may, type Principal, servicesWith } from "../domain/principal.ts";
import type { Service } from "../domain/service.ts";
import type { ServiceSpecInput } from "../domain/service-spec.ts";
import type { SpecRevision } from "../domain/spec-revision.ts";
import type { Token } from "../domain/token.ts";
import { allowSome } from "./allow-some.ts";
import { differencesFor, type ServiceDifference } from "./convert-difference.ts";
import { serviceFor } from "./convert-service.ts";
import { specFromProto, specToProto } from "./convert-spec.ts";
import { durationFromProto, timeToProto } from "./convert-time.ts";
import { tokenToProto } from "./convert-token.ts";
import { GetAnswers } from "./get-answers.ts";
import type { Handlers } from "./handler.ts";
import { type RegistryCall, registryCall } from "./registry-call.ts";
import type { SeenRevision } from "./seen-revision.ts";
import type { ServiceWatch, SnapshotSource } from "./watch-services.ts";

/** What the handlers need of the registry's services. */
export interface ServiceRoom extends SnapshotSource {
  create(call: RegistryCall, request: { name: string; spec: ServiceSpecInput }): Promise<ChangedService>;
  /** Throws not_found. */
  get(name: string): Promise<{ readonly service: Service; readonly revision: bigint }>;
  list(request: {
    pageSize: number;
    pageToken: string;
    filter: string;
    orderBy: string;
    /** Only services of these names; undefined: of all. */
    names: readonly string[] | undefined;
  }): Promise<{ readonly services: readonly Service[]; readonly nextPageToken: string; readonly revision: bigint }>;
  /** Undefined paths: every field that is given. */
  update(
    call: RegistryCall,
    request: {
      name: string;
      etag: string;
      spec: ServiceSpecInput;
      paths: readonly string[] | undefined;
      allowMissing: boolean;
    },
  ): Promise<ChangedService>;
  /** The specs that a service had, newest first. Throws not_found. */
  revisions(request: { name: string; pageSize: number; pageToken: string }): Promise<{
    readonly revisions: readonly SpecRevision[];
    readonly nextPageToken: string;
    readonly revision: bigint;
  }>;
  rollBack(
    call: RegistryCall,
    request: { name: string; etag: string; revision: bigint },
  ): Promise<ChangedService & ServiceDifference & { readonly restarts: boolean }>;
  /** Undefined service: it was missing, and that was allowed. */
  delete(
    call: RegistryCall,
    request: { name: string; etag: string; force: boolean; allowMissing: boolean },
  ): Promise<{ readonly service: Service | undefined; readonly revision: bigint }>;
  apply(
    call: RegistryCall,
    request: {
      services: readonly { name: string; etag: string; spec: ServiceSpecInput }[];
      setName: string;
      prune: boolean;
    },
  ): Promise<{
    readonly changes: readonly (ServiceDifference & {
      readonly name: string;
      readonly action: AppliedAction;
      readonly restarts: boolean;
    })[];
    readonly revision: bigint;
    readonly warnings: readonly string[];
  }>;
}

export interface ChangedService {
  readonly service: Service;
  readonly revision: bigint;
  readonly warnings: readonly string[];
}

export type AppliedAction = "unchanged" | "create" | "update" | "delete";

/** What the handlers need of the registry's tokens. */
export interface TokenRoom {
  /** An empty service: an operator's token. */
  issue(
    call: RegistryCall,
    request: { service: string; scopes: readonly string[]; note: string; ttlMs: number | undefined },
  ): Promise<IssuedToken>;
  list(request: {
    service: string;
    showEnded: boolean;
    pageSize: number;
    pageToken: string;
  }): Promise<{ readonly tokens: readonly Token[]; readonly nextPageToken: string; readonly revision: bigint }>;
  /** The service that a token belongs to; undefined: an operator's. Throws not_found. */
  ownerOf(tokenId: string): Promise<string | undefined>;
  rotate(
    call: RegistryCall,
    request: { tokenId: string; overlapMs: number | undefined },
  ): Promise<IssuedToken & { readonly replaced: Token }>;
  /** Undefined token: it was missing, and that was allowed. */
  revoke(
    call: RegistryCall,
    request: { tokenId: string; allowMissing: boolean },
  ): Promise<{ readonly token: Token | undefined; readonly revision: bigint }>;
}

export interface IssuedToken {
  readonly token: Token;
  readonly secret: string;
  readonly revision: bigint;
}

/** What a server tells of itself. */
export interface ServerIdentity {
  readonly version: string;
  readonly storeUid: string;
  readonly node: string;
}

export interface ServiceRegistryOptions {
  readonly services: ServiceRoom;
  readonly tokens: TokenRoom;
  readonly watch: ServiceWatch;
  readonly seen: SeenRevision;
  readonly identity: ServerIdentity;
  readonly clock: Clock;
}

/** Permission first, before existence and detail; then convert, ask the registry, convert back. */
export function serviceRegistry(options: ServiceRegistryOptions): Handlers<typeof ServiceRegistryDesc> {
  return {
    ...serviceHandlers(options),
    ...historyHandlers(options),
    ...tokenHandlers(options),
    ...identityHandlers(options),
  };
}

type RegistryHandlers = Handlers<typeof ServiceRegistryDesc>;

function serviceHandlers({
  services,
  watch,
  seen,
}: ServiceRegistryOptions): Pick<
  RegistryHandlers,
  "create" | "get" | "list" | "update" | "delete" | "apply" | "watchServices"
> {
  const answers = new GetAnswers();
  return {
    async create(request, context) {
      const { serviceId: name, service } = request;
      allow(context.principal, "admin:services", name);
      checkSameName(service?.name ?? "", name);
      const spec = specFromProto(service?.spec, "service.spec");
      return shown(context.principal, await services.create(registryCall(context, request), { name, spec }));
    },

    async get({ name, minRevision }, context) {
      const { principal } = context;
      allow(principal, "read:services", name);
      await seen.reached(minRevision, context);
      const { service, revision } = await services.get(name);
      return answers.of(principal, service, revision);
    },

    async list(request, context) {
      const { principal } = context;
      allowSome(principal, "list:services");
      const { pageSize, pageToken, filter, orderBy } = request;
      const names = servicesWith(principal, "list:services");
      await seen.reached(request.minRevision, context);
      const page = await services.list({ pageSize, pageToken, filter, orderBy, names });
      return { ...page, services: page.services.map((service) => serviceFor(principal, service)) };
    },

    async update(request, context) {
      const { name = "", etag = "", spec } = request.service ?? {};
      allow(context.principal, "admin:services", name);
      if (name === "") throw invalid({ field: "service.name", description: "must name the service to change" });
      const paths = request.updateMask?.paths ?? [];
      const { allowMissing } = request;
      const wanted = {
        name,
        etag,
        spec: specFromProto(spec, "service.spec"),
        paths: paths.length === 0 ? undefined : paths,
        allowMissing,
      };
      return shown(context.principal, await services.update(registryCall(context, request), wanted));
    },

    async delete(request, context) {
      const { name, etag, force, allowMissing } = request;
      allow(context.principal, "admin:services", name);
      const deleted = await services.delete(registryCall(context, request), { name, etag, force, allowMissing });
      if (deleted.service === undefined) return { revision: deleted.revision };
      return { service: serviceFor(context.principal, deleted.service), revision: deleted.revision };
    },

    async apply(request, context) {
      const { setName, prune } = request;
      // What prune deletes is not named in the request: only who may change all may prune.
      if (prune) allow(context.principal, "admin:services");
      else allowSome(context.principal, "admin:services");
      for (const { name } of request.services) allow(context.principal, "admin:services", name);
      const wanted = request.services.map(({ name, etag, spec }, index) => ({
        name,
        etag,
        spec: specFromProto(spec, `services[${index}].spec`),
      }));
      const applied = await services.apply(registryCall(context, request), { services: wanted, setName, prune });
      return {
        changes: applied.changes.map((change) => ({
          name: change.name,
          action: applyActions[change.action],
          paths: [...change.paths],
          restarts: change.restarts,
          service: serviceFor(context.principal, change.service),
          differences: differencesFor(context.principal, change),
        })),
        revision: applied.revision,
        warnings: [...applied.warnings],
      };
    },

    watchServices: (request, context) => watch.watch(request, context),
  };
}

function historyHandlers({
  services,
  seen,
}: ServiceRegistryOptions): Pick<RegistryHandlers, "listRevisions" | "rollback"> {
  return {
    async listRevisions({ name, pageSize, pageToken, minRevision }, context) {
      const { principal } = context;
      allow(principal, "read:services", name);
      await seen.reached(minRevision, context);
      const page = await services.revisions({ name, pageSize, pageToken });
      const environment = may(principal, "read:services:environment", name);
      return {
        ...page,
        revisions: page.revisions.map(({ revision, time, actor, paths, spec }) => ({
          ...{ revision, time: timeToProto(time), actor, paths: [...paths] },
          spec: specToProto(spec, { environment }),
        })),
      };
    },

    async rollback(request, context) {
      const { name, etag, revision } = request;
      allow(context.principal, "admin:services", name);
      const rolledBack = await services.rollBack(registryCall(context, request), { name, etag, revision });
      return {
        ...shown(context.principal, rolledBack),
        differences: differencesFor(context.principal, rolledBack),
        restarts: rolledBack.restarts,
      };
    },
  };
}

function tokenHandlers({
  tokens,
  seen,
  clock,
}: ServiceRegistryOptions): Pick<RegistryHandlers, "issueToken" | "listTokens" | "rotateToken" | "revokeToken"> {
  const show = (token: Token) => tokenToProto(token, clock.now());
  return {
    async issueToken(request, context) {
      const { service, scopes, note } = request;
      allow(context.principal, "tokens:services", service === "" ? undefined : service);
      const ttlMs = durationFromProto(request.ttl);
      const issued = await tokens.issue(registryCall(context, request), { service, scopes, note, ttlMs });
      return { token: show(issued.token), secret: issued.secret, revision: issued.revision };
    },

    async listTokens({ service, showEnded, pageSize, pageToken, minRevision }, context) {
      const { principal } = context;
      allow(principal, "tokens:services", service === "" ? undefined : service);
      await seen.reached(minRevision, context);
      const page = await tokens.list({ service, showEnded, pageSize, pageToken });
      return { ...page, tokens: page.tokens.map(show) };
    },

    async rotateToken(request, context) {
      const { tokenId } = request;
      await allowToken(tokens, context.principal, tokenId);
      const overlapMs = durationFromProto(request.overlap);
      const rotated = await tokens.rotate(registryCall(context, request), { tokenId, overlapMs });
      const { token, secret, replaced, revision } = rotated;
      return { token: show(token), secret, replaced: show(replaced), revision };
    },

    async revokeToken(request, context) {
      const { tokenId, allowMissing } = request;
      await allowToken(tokens, context.principal, tokenId);
      const { token, revision } = await tokens.revoke(registryCall(context, request), { tokenId, allowMissing });
      return token === undefined ? { revision } : { token: show(token), revision };
    },
  };
}

function identityHandlers({ identity }: ServiceRegistryOptions): Pick<RegistryHandlers, "whoAmI"> {
  return {
    async whoAmI(_, { principal }) {
      return {
        kind: principalKinds[principal.kind],
        name: principal.name,
        admin: principal.scopes.includes("*"),
        scopes: [...principal.scopes],
        tokenId: principal.tokenId,
        tokenExpireTime: timeToProto(principal.tokenExpireTime),
        serverVersion: identity.version,
        storeUid: identity.storeUid,
        node: identity.node,
      };
    },
  };
}

function shown(principal: Principal, { service, revision, warnings }: ChangedService) {
  return { service: serviceFor(principal, service), revision, warnings: [...warnings] };
}

function checkSameName(given: string, name: string): void {
  if (given === "" || given === name) return;
  throw invalid({ field: "service.name", description: `must be empty or equal service_id, ${JSON.stringify(name)}` });
}

/** Who may change the tokens of some services only is told of no other token whether it exists. */
async function allowToken(tokens: TokenRoom, principal: Principal, tokenId: string): Promise<void> {
  if (may(principal, "tokens:services")) return;
  allowSome(principal, "tokens:services");
  allow(principal, "tokens:services", await ownerOrNobody(tokens, tokenId));
}

async function ownerOrNobody(tokens: TokenRoom, tokenId: string): Promise<string | undefined> {
  try {
    return await tokens.ownerOf(tokenId);
  } catch (error) {
    if (error instanceof AppError && error.code === "not_found") return undefined;
    throw error;
  }
}

export const applyActions: Readonly<Record<AppliedAction, ApplyAction>> = {
  unchanged: ApplyAction.UNCHANGED,
  create: ApplyAction.CREATE,
  update: ApplyAction.UPDATE,
  delete: ApplyAction.DELETE,
};

const principalKinds: Readonly<Record<Principal["kind"], PrincipalKind>> = {
  operator: PrincipalKind.OPERATOR,
  service: PrincipalKind.SERVICE,
};
