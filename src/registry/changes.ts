import { randomUUID } from "node:crypto";
import { AppError, invalid, serviceNotFound } from "../domain/errors.ts";
import { externalStatus } from "../domain/external-status.ts";
import { covers } from "../domain/principal.ts";
import type { Service, ServiceSpec } from "../domain/service.ts";
import { serviceExists } from "../domain/service-name.ts";
import { parseServiceSpec, type ServiceSpecInput, type SpecRules, specToInput } from "../domain/service-spec.ts";
import { diffSpecs, mergeSpec } from "../domain/spec-update.ts";
import { blankStatus, endedStates, type ServiceStatus } from "../domain/status.ts";
import type { TokenKeys } from "../domain/token-secret.ts";
import { type Call, checkEtag, checkNotDeleting, eventOf } from "./call.ts";
import type { RegistryTransaction } from "./writer.ts";

/** What a host can say of a spec before anything is written: whether the user exists, the directory, the command. */
export interface HostChecks {
  /** Throws an AppError that names the field below `field`, if this host could not run it. Resolves with warnings. */
  check(spec: ServiceSpec, field: string): Promise<readonly string[]>;
}

export interface ChangeTools {
  readonly keys: TokenKeys;
  readonly hostChecks: HostChecks;
  readonly forbidden: SpecRules["forbidden"];
  readonly now: () => Date;
}

/** What a change did to one service. */
export interface Outcome {
  readonly action: "unchanged" | "create" | "update" | "delete";
  /** The service as it will be; its revision is not known before the commit. */
  readonly service: Service;
  readonly paths: readonly string[];
  readonly restarts: boolean;
  readonly warnings: readonly string[];
}

/** Registers a service. `field` is where its spec stands in the request. */
export async function createService(
  tx: RegistryTransaction,
  call: Call,
  tools: ChangeTools,
  request: { name: string; spec: ServiceSpecInput; setName: string; field: string },
): Promise<Outcome> {
  const { name, setName, field } = request;
  const existing = await tx.serviceByName(name);
  if (existing?.wish === "deleted") checkNotDeleting(existing);
  if (existing !== undefined) throw serviceExists(name, existing.name);
  const parsed = parseServiceSpec(name, request.spec, { forbidden: tools.forbidden, field });
  const { spec, apiToken } = parsed;
  checkMayBeAdmin(call, name, spec);
  const warnings = [...parsed.warnings, ...(await checkOnHost(tools, name, spec, field))];
  const uid = randomUUID();
  const apiTokenSealed = apiToken === undefined ? undefined : tools.keys.seal(apiToken);
  await tx.insertService({
    name,
    uid,
    spec,
    apiTokenSealed,
    setName,
    wish: "running",
    status: firstStatus(spec, tools.now()),
  });
  if (apiToken !== undefined) await supplyToken(tx, call, tools, { name, uid }, apiToken);
  tx.append(
    eventOf(
      call,
      { name, uid, generation: 1 },
      { type: "service_created" },
      `${call.principal.name} registered the service`,
    ),
  );
  return { action: "create", service: await written(tx, uid), paths: [], restarts: false, warnings };
}

/** Changes the spec of a service. Nothing is written if nothing differs. */
export async function updateService(
  tx: RegistryTransaction,
  call: Call,
  tools: ChangeTools,
  request: {
    service: Service;
    spec: ServiceSpecInput;
    paths: readonly string[] | undefined;
    etag: string;
    setName?: string;
    field: string;
  },
): Promise<Outcome> {
  const { service, field } = request;
  checkNotDeleting(service);
  checkEtag(service, request.etag);
  const merged = mergeSpec(specToInput(service.spec), request.spec, request.paths);
  const parsed = parseServiceSpec(service.name, merged, { forbidden: tools.forbidden, field });
  const token = await tokenChange(
    tx,
    tools,
    service,
    parsed.apiToken,
    request.paths?.includes("spec.api_token") === true,
  );
  const spec: ServiceSpec = {
    ...parsed.spec,
    apiTokenSet: token === "keep" ? service.spec.apiTokenSet : token !== "clear",
  };
  if (spec.kind.type !== service.spec.kind.type) {
    throw invalid({
      field: `${field}.kind`,
      description: `${service.name} is ${service.spec.kind.type}; delete it to register it anew otherwise`,
    });
  }
  const { paths, restarts } = withToken(diffSpecs(service.spec, spec), token);
  const setName = request.setName ?? service.setName;
  const outcome = { paths, restarts: restarts && spec.kind.type === "managed", warnings: parsed.warnings };
  if (paths.length === 0 && setName === service.setName) return { action: "unchanged", service, ...outcome };
  checkMayBeAdmin(call, service.name, spec);
  const onHost = restarts ? await checkOnHost(tools, service.name, spec, field) : [];
  await tx.updateService(service, {
    spec,
    setName,
    version: service.version + 1,
    ...(outcome.restarts ? { generation: service.generation + 1 } : {}),
    ...(token === "keep" ? {} : { apiTokenSealed: token === "clear" ? null : tools.keys.seal(token.secret) }),
    ...(spec.kind.type === "external" ? { status: externalStatus(spec, service, tools.now()) } : {}),
  });
  if (token !== "keep") {
    for (const tokenId of await tx.revokeTokens(service.uid, tools.now(), "supplied")) {
      tx.append(eventOf(call, service, { type: "token_revoked", tokenId }, "the supplied token was replaced"));
    }
    if (token !== "clear") await supplyToken(tx, call, tools, service, token.secret);
  }
  const changed = await written(tx, service.uid);
  const what = paths.length === 0 ? "the set it belongs to" : paths.join(", ");
  tx.append(
    eventOf(
      call,
      changed,
      { type: "service_updated", paths, restarts: outcome.restarts },
      `${call.principal.name} changed ${what}`,
    ),
  );
  return { action: "update", service: changed, ...outcome, warnings: [...parsed.warnings, ...onHost] };
}

async function checkOnHost(
  { hostChecks }: ChangeTools,
  name: string,
  spec: ServiceSpec,
  field: string,
): Promise<string[]> {
  return (await hostChecks.check(spec, field)).map((warning) => `${name}: ${warning}`);
}

/** Wishes a service gone and ends its tokens at once; removes it if nothing of it lives. */
export async function deleteService(
  tx: RegistryTransaction,
  call: Call,
  tools: ChangeTools,
  request: { service: Service; etag: string; force: boolean },
): Promise<Outcome> {
  const { service } = request;
  checkEtag(service, request.etag);
  const outcome = { action: "delete", paths: [], restarts: false, warnings: [] } as const;
  if (service.wish === "deleted") return { ...outcome, service };
  if (!request.force && isActive(service)) throw serviceRuns(service);
  await tx.updateService(service, { wish: "deleted", version: service.version + 1 });
  const revoked = await tx.revokeTokens(service.uid, tools.now());
  const changed = await written(tx, service.uid);
  tx.append(
    eventOf(call, changed, { type: "wish_changed", wish: "deleted" }, `${call.principal.name} deleted the service`),
  );
  for (const tokenId of revoked)
    tx.append(eventOf(call, changed, { type: "token_revoked", tokenId }, "its service was deleted"));
  await tx.finishDeletion(service.uid);
  return { ...outcome, service: changed };
}

/** The tokens of an admin service may do everything, and so must whoever makes it one or changes what it runs and is. */
function checkMayBeAdmin(call: Call, name: string, spec: ServiceSpec): void {
  if (!spec.admin || covers(call.principal, "*")) return;
  throw new AppError(
    "permission_denied",
    "SCOPE_MISSING",
    `${name} is to be an admin: that takes a token that may do everything`,
    {
      metadata: { scope: "*", service: name },
    },
  );
}

/** Finds a service by its exact name and locks it. */
export async function lockService(tx: RegistryTransaction, name: string): Promise<Service> {
  const service = await tx.serviceByName(name, { lock: true });
  if (service === undefined || service.name !== name) throw serviceNotFound(name);
  return service;
}

/** Whether a managed service runs or is about to. */
function isActive(service: Service): boolean {
  return service.spec.kind.type === "managed" && service.wish === "running" && !endedStates.has(service.status.state);
}

function serviceRuns(service: Service): AppError {
  return new AppError(
    "failed_precondition",
    "SERVICE_RUNNING",
    `${service.name} is wished running; stop it first or use force`,
    {
      metadata: { service: service.name, state: service.status.state },
      resource: { type: "service", name: service.name },
    },
  );
}

type TokenChange = "keep" | "clear" | { readonly secret: string };

/** An empty token keeps the one that there is, unless the mask names it. */
async function tokenChange(
  tx: RegistryTransaction,
  tools: ChangeTools,
  service: Service,
  apiToken: string | undefined,
  named: boolean,
): Promise<TokenChange> {
  if (apiToken === undefined) return named && service.spec.apiTokenSet ? "clear" : "keep";
  const sealed = await tx.sealedApiToken(service.uid);
  return sealed !== undefined && tools.keys.open(sealed) === apiToken ? "keep" : { secret: apiToken };
}

function withToken(
  difference: { paths: string[]; restarts: boolean },
  token: TokenChange,
): { paths: string[]; restarts: boolean } {
  return token === "keep" ? difference : { paths: [...difference.paths, "spec.api_token"], restarts: true };
}

async function supplyToken(
  tx: RegistryTransaction,
  call: Call,
  tools: ChangeTools,
  service: { name: string; uid: string },
  secret: string,
): Promise<void> {
  await tx.insertToken({
    id: randomUUID(),
    digest: tools.keys.digest(secret),
    service: { name: service.name, uid: service.uid },
    hint: "",
    scopes: ["inherit"],
    note: "the api_token of its spec",
    source: "supplied",
    createdBy: call.principal.name,
    createTime: tools.now(),
    expireTime: undefined,
    revokeTime: undefined,
    lastUsedTime: undefined,
    replacedBy: undefined,
  });
}

/** The status of a service that is new. */
function firstStatus(spec: ServiceSpec, now: Date): ServiceStatus {
  if (spec.kind.type === "managed") return { ...blankStatus, state: "pending", transitionTime: now };
  return externalStatus(spec, undefined, now);
}

async function written(tx: RegistryTransaction, uid: string): Promise<Service> {
  const service = await tx.serviceByUid(uid);
  if (service === undefined) throw new Error(`the service ${uid} was just written and is not there`);
  return service;
}
