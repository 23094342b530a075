import { publicPrefix } from "../domain/service.ts";
import { reservedEnvironment } from "../domain/service-spec.ts";
import type { Account } from "./account.ts";

/** Carries the instance id into every descendant, so that those which left the session are found again. */
export const instanceMarker = "STEWARD_INSTANCE";

/** The marker of what belongs to an instance and must be told apart from the rest of it. */
export function markerOfPart(instanceId: string, part: string): string {
  return `${instanceId}/${part}`;
}

/** A marker and all that it is a part of. */
export function ownersOf(marker: string): string[] {
  const parts = marker.split("/");
  return parts.map((_, index) => parts.slice(0, index + 1).join("/"));
}

/** All that a service gets of the environment of its host. Source: JupyterHub, Spawner.env_keep. */
export const HOST_VARIABLES: ReadonlySet<string> = new Set([
  "CONDA_DEFAULT_ENV",
  "CONDA_ROOT",
  "JUPYTERHUB_SINGLEUSER_APP",
  "LANG",
  "LC_ALL",
  "LD_LIBRARY_PATH",
  "PATH",
  "PYTHONPATH",
  "VIRTUAL_ENV",
]);

/** What a service must be told; strings that are unknown are empty. */
export interface EnvironmentInput {
  /** The host's variables; all but HOST_VARIABLES are ignored. */
  readonly host: Readonly<Record<string, string | undefined>>;
  readonly service: ServiceIdentity;
  readonly platform: Platform;
  /** The `environment` of the spec. */
  readonly environment: Readonly<Record<string, string>>;
  /** The `user` field of the spec as it was given. */
  readonly user: string | undefined;
  /** Whose HOME, USER, LOGNAME and SHELL the service gets: the switched user's, or Steward's own. Undefined: nobody's. */
  readonly account: Account | undefined;
}

export interface ServiceIdentity {
  readonly name: string;
  readonly instanceId: string;
  readonly apiToken: string;
  readonly clientId: string;
  /** With the picked port. Undefined: the service has no url. */
  readonly url: string | undefined;
  /** Undefined: `oauth_callback` under its prefix, relative to whatever origin it is seen at. */
  readonly oauthCallbackUrl: string | undefined;
}

/** Where the service finds Steward and the public finds both. */
export interface Platform {
  /** Without a trailing slash: clients append "/user". */
  readonly apiUrl: string;
  /** Begins and ends with a slash. */
  readonly baseUrl: string;
  /** The public origin of the hub when services live on other origins, else empty. */
  readonly publicHost: string;
  /** The public URL of this service, or empty. */
  readonly publicUrl: string;
  readonly publicHubUrl: string;
  /** Where Steward's own API listens. */
  readonly stewardAddress: string;
}

/**
 * The whole environment of a managed service, from nothing. Low to high: allow-listed host variables, the JUPYTERHUB_*
 * contract, the spec, identity, the account of a switched user. What is reserved is dropped from the spec once more, so that
 * no row of an older rule book can say who a service is. Source of the contract: JupyterHub, Services.
 */
export function buildEnvironment(input: EnvironmentInput): Map<string, string> {
  const switched = input.user !== undefined;
  const environment = new Map<string, string>([
    ...hostVariables(input.host),
    ...(switched ? [] : accountVariables(input.account)),
    ...contractVariables(input),
    ...Object.entries(input.environment).filter(([name]) => !reservedEnvironment.has(name)),
    ...identityVariables(input.service),
    ...(switched ? accountVariables(input.account) : []),
  ]);
  return environment;
}

function hostVariables(host: EnvironmentInput["host"]): [string, string][] {
  return [...HOST_VARIABLES].flatMap((name): [string, string][] => {
    const value = host[name];
    return value === undefined ? [] : [[name, value]];
  });
}

function contractVariables({ service, platform, user }: EnvironmentInput): [string, string][] {
  const accessScopes = JSON.stringify(["access:services", `access:services!service=${service.name}`]);
  return [
    ["JUPYTERHUB_API_URL", platform.apiUrl],
    ["JUPYTERHUB_BASE_URL", platform.baseUrl],
    ["JUPYTERHUB_HOST", platform.publicHost],
    ["JUPYTERHUB_PUBLIC_URL", service.url === undefined ? "" : platform.publicUrl],
    ["JUPYTERHUB_PUBLIC_HUB_URL", platform.publicHubUrl],
    ["JUPYTERHUB_OAUTH_CALLBACK_URL", callbackUrl(service)],
    ["JUPYTERHUB_OAUTH_ACCESS_SCOPES", accessScopes],
    ["JUPYTERHUB_OAUTH_SCOPES", accessScopes],
    ["JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES", "[]"],
    ["JUPYTERHUB_USER", user ?? ""],
    ["JUPYTERHUB_SERVER_NAME", ""],
    ["JUPYTERHUB_COOKIE_HOST_PREFIX_ENABLED", "0"],
    ["STEWARD_ADDRESS", platform.stewardAddress],
  ];
}

/** Without a url there is no prefix to come back to; the bare word is what JupyterHub gives. */
function callbackUrl(service: ServiceIdentity): string {
  if (service.oauthCallbackUrl !== undefined) return service.oauthCallbackUrl;
  return service.url === undefined ? "oauth_callback" : `${publicPrefix(service.name)}oauth_callback`;
}

function identityVariables(service: ServiceIdentity): [string, string][] {
  const always: [string, string][] = [
    ["JUPYTERHUB_SERVICE_NAME", service.name],
    ["JUPYTERHUB_API_TOKEN", service.apiToken],
    ["JPY_API_TOKEN", service.apiToken],
    ["JUPYTERHUB_CLIENT_ID", service.clientId],
    [instanceMarker, service.instanceId],
  ];
  if (service.url === undefined) return always;
  return [
    ...always,
    ["JUPYTERHUB_SERVICE_URL", service.url],
    ["JUPYTERHUB_SERVICE_PREFIX", publicPrefix(service.name)],
  ];
}

function accountVariables(account: Account | undefined): [string, string][] {
  if (account === undefined) return [];
  const { name, home, shell } = account;
  const variables: [string, string][] = [
    ["HOME", home],
    ["USER", name],
    ["LOGNAME", name],
    ["SHELL", shell],
  ];
  return variables.filter(([, value]) => value !== "");
}
