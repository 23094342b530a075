import { checkDependencies, type Dependency } from "./dependency.ts";
import { type FieldViolation, invalid } from "./errors.ts";
import type { Limits } from "./limits.ts";
import { type ProbeInput, parseProbe } from "./probe.ts";
import {
  defaultRestartPolicy,
  type JsonValue,
  type ManagedSpec,
  managedDefaults,
  type RestartPolicy,
  type ServiceSpec,
  type StopSignal,
  type UpdateStrategy,
} from "./service.ts";
import { type ForbiddenTarget, parseServiceUrl, picksPort } from "./service-url.ts";

/** A spec as a client wrote it: anything may be missing or wrong. */
export interface ServiceSpecInput {
  readonly kind?: ManagedSpecInput | ExternalSpecInput | undefined;
  readonly admin?: boolean | undefined;
  readonly url?: string | undefined;
  /** Write-only; empty or undefined: none, or in an update the one it has. */
  readonly apiToken?: string | undefined;
  readonly oauthClientId?: string | undefined;
  readonly oauthNoConfirm?: boolean | undefined;
  readonly info?: Readonly<Record<string, JsonValue>> | undefined;
  readonly display?: boolean | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
}

export interface ManagedSpecInput {
  readonly type: "managed";
  readonly command: readonly string[];
  readonly environment?: Readonly<Record<string, string>> | undefined;
  readonly cwd?: string | undefined;
  readonly user?: string | undefined;
  readonly restartPolicy?: { readonly [K in keyof RestartPolicy]?: RestartPolicy[K] | undefined } | undefined;
  readonly stopGraceMs?: number | undefined;
  readonly readinessTimeoutMs?: number | undefined;
  readonly minReadyMs?: number | undefined;
  readonly stopSignal?: StopSignal | undefined;
  readonly drainMs?: number | undefined;
  readonly limits?: Limits | undefined;
  readonly startupProbe?: ProbeInput | undefined;
  readonly readinessProbe?: ProbeInput | undefined;
  readonly livenessProbe?: ProbeInput | undefined;
  readonly dependsOn?: readonly Dependency[] | undefined;
  readonly updateStrategy?: UpdateStrategy | undefined;
}

export interface ExternalSpecInput {
  readonly type: "external";
  readonly probe?: ProbeInput | undefined;
}

export interface SpecRules {
  /** Addresses of our own that no url may have. */
  readonly forbidden: readonly ForbiddenTarget[];
  /** The path of the spec in the request, for violations: `service.spec`. */
  readonly field: string;
}

export interface ParsedSpec {
  readonly spec: ServiceSpec;
  readonly apiToken: string | undefined;
  /** What is accepted but not recommended, for people. */
  readonly warnings: readonly string[];
}

/** They tell a service who it is: a spec cannot set them. Source: JupyterHub, Service environment, and our own marker. */
export const reservedEnvironment: ReadonlySet<string> = new Set([
  "JUPYTERHUB_SERVICE_NAME",
  "JUPYTERHUB_SERVICE_PREFIX",
  "JUPYTERHUB_SERVICE_URL",
  "JUPYTERHUB_API_TOKEN",
  "JPY_API_TOKEN",
  "JUPYTERHUB_CLIENT_ID",
  "STEWARD_INSTANCE",
]);

const shortestToken = 8;
const recommendedToken = 32;
const largestInfo = 65_536;

/** Makes a valid spec of what a client wrote; throws one invalid_argument with every field that is wrong. */
export function parseServiceSpec(name: string, input: ServiceSpecInput, rules: SpecRules): ParsedSpec {
  const violations: FieldViolation[] = [];
  const url = parseUrl(input, rules, violations);
  const apiToken = parseApiToken(input.apiToken, `${rules.field}.api_token`, violations);
  const kind = parseKind(name, input, rules.field, violations);
  const oauthClientId = parseClientId(
    input.oauthClientId || `service-${name}`,
    `${rules.field}.oauth_client_id`,
    violations,
  );
  if (JSON.stringify(input.info ?? {}).length > largestInfo) {
    violations.push({ field: `${rules.field}.info`, description: `must be at most ${largestInfo} bytes as JSON` });
  }
  const [first, ...rest] = violations;
  if (first !== undefined) throw invalid(first, ...rest);
  const spec: ServiceSpec = {
    kind,
    admin: input.admin ?? false,
    url,
    apiTokenSet: apiToken !== undefined,
    oauthClientId,
    oauthNoConfirm: input.oauthNoConfirm ?? false,
    info: input.info ?? {},
    display: input.display ?? true,
    labels: input.labels ?? {},
  };
  return { spec, apiToken, warnings: warningsOf(name, spec, apiToken) };
}

/** The spec as a client would write it, without the token. */
export function specToInput(spec: ServiceSpec): ServiceSpecInput {
  return { ...spec };
}

function parseUrl(input: ServiceSpecInput, rules: SpecRules, violations: FieldViolation[]): string | undefined {
  if (!input.url) return undefined;
  const managed = input.kind?.type === "managed";
  const parsed = parseServiceUrl(input.url, `${rules.field}.url`, { managed, forbidden: rules.forbidden });
  if ("url" in parsed) return parsed.url;
  violations.push(parsed);
  return undefined;
}

function parseApiToken(token: string | undefined, field: string, violations: FieldViolation[]): string | undefined {
  if (!token) return undefined;
  if (token.length < shortestToken)
    violations.push({ field, description: `must be at least ${shortestToken} characters` });
  else if (token.length > 1_024) violations.push({ field, description: "must be at most 1024 characters" });
  else if (!/^[!-~]+$/.test(token))
    violations.push({ field, description: "must be visible ASCII characters without spaces" });
  return token;
}

function parseClientId(id: string, field: string, violations: FieldViolation[]): string {
  if (!/^service-[A-Za-z0-9._-]{1,247}$/.test(id)) {
    violations.push({
      field,
      description: 'must start with "service-" and go on with letters, digits, dots, dashes and underscores',
    });
  }
  return id;
}

function parseKind(
  name: string,
  { kind, url }: ServiceSpecInput,
  field: string,
  violations: FieldViolation[],
): ServiceSpec["kind"] {
  if (kind?.type === "managed") return parseManaged(kind, { name, url, field: `${field}.managed` }, violations);
  if (kind === undefined)
    violations.push({ field: `${field}.kind`, description: 'must be set: "managed" or "external"' });
  const at = { role: "external", field: `${field}.external.probe`, hasUrl: Boolean(url) } as const;
  return { type: "external", probe: parseProbe(kind?.probe, at, violations) };
}

function parseManaged(
  input: ManagedSpecInput,
  { name, url, field }: { name: string; url: string | undefined; field: string },
  violations: FieldViolation[],
): ManagedSpec {
  const command = parseCommand(input.command, `${field}.command`, violations);
  checkEnvironment(input.environment ?? {}, `${field}.environment`, violations);
  checkText(input.cwd ?? "", `${field}.cwd`, violations);
  checkText(input.user ?? "", `${field}.user`, violations);
  if (input.cwd && !input.cwd.startsWith("/"))
    violations.push({ field: `${field}.cwd`, description: "must be an absolute path" });
  const restartPolicy = parsePolicy(input.restartPolicy ?? {}, `${field}.restart_policy`, violations);
  const dependsOn = input.dependsOn ?? [];
  checkDependencies(name, dependsOn, `${field}.depends_on`, violations);
  if (input.updateStrategy === "rolling" && !(URL.canParse(url ?? "") && picksPort(url))) {
    violations.push({
      field: `${field}.update_strategy`,
      description: "ROLLING needs a url with port 0, so that two processes can listen at once",
    });
  }
  return {
    ...parseProbes(input, { field, hasUrl: Boolean(url) }, violations),
    type: "managed",
    command,
    environment: input.environment ?? {},
    cwd: input.cwd || undefined,
    user: input.user || undefined,
    restartPolicy,
    stopGraceMs: input.stopGraceMs ?? managedDefaults.stopGraceMs,
    readinessTimeoutMs: input.readinessTimeoutMs ?? managedDefaults.readinessTimeoutMs,
    minReadyMs: input.minReadyMs ?? managedDefaults.minReadyMs,
    stopSignal: input.stopSignal ?? managedDefaults.stopSignal,
    drainMs: input.drainMs,
    limits: input.limits ?? {},
    dependsOn,
    updateStrategy: input.updateStrategy ?? managedDefaults.updateStrategy,
  };
}

/** One descriptor can tell one readiness: the startup, or without a startup probe the readiness. */
function parseProbes(
  input: ManagedSpecInput,
  { field, hasUrl }: { field: string; hasUrl: boolean },
  violations: FieldViolation[],
): Pick<ManagedSpec, "startupProbe" | "readinessProbe" | "livenessProbe"> {
  const parse = (probe: ProbeInput | undefined, role: "startup" | "readiness" | "liveness") =>
    parseProbe(probe, { role, field: `${field}.${role}_probe`, hasUrl }, violations);
  if (input.startupProbe !== undefined && input.readinessProbe?.action?.kind === "notify") {
    violations.push({
      field: `${field}.readiness_probe.notify`,
      description: "cannot stand beside a startup probe: what is told once is a startup",
    });
  }
  return {
    startupProbe: parse(input.startupProbe, "startup"),
    readinessProbe: parse(input.readinessProbe, "readiness"),
    livenessProbe: parse(input.livenessProbe, "liveness"),
  };
}

function parseCommand(command: readonly string[], field: string, violations: FieldViolation[]): ManagedSpec["command"] {
  const [program = "", ...args] = command;
  if (program === "")
    violations.push({ field, description: "must name a program: at least one word that is not empty" });
  command.forEach((word, index) => checkText(word, `${field}[${index}]`, violations));
  return [program, ...args];
}

function checkEnvironment(
  environment: Readonly<Record<string, string>>,
  field: string,
  violations: FieldViolation[],
): void {
  for (const [name, value] of Object.entries(environment)) {
    const at = `${field}[${JSON.stringify(name)}]`;
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
      violations.push({
        field: at,
        description: "a name must be letters, digits and underscores, and not begin with a digit",
      });
    } else if (reservedEnvironment.has(name)) {
      violations.push({
        field: at,
        description: "tells the service who it is and is set by Steward; choose another name",
      });
    }
    checkText(value, at, violations);
  }
}

function checkText(text: string, field: string, violations: FieldViolation[]): void {
  if (text.includes("\0")) violations.push({ field, description: "must not contain a NUL character" });
}

function parsePolicy(
  input: NonNullable<ManagedSpecInput["restartPolicy"]>,
  field: string,
  violations: FieldViolation[],
): RestartPolicy {
  const policy: RestartPolicy = {
    mode: input.mode ?? defaultRestartPolicy.mode,
    baseDelayMs: input.baseDelayMs ?? defaultRestartPolicy.baseDelayMs,
    maxDelayMs: input.maxDelayMs ?? Math.max(defaultRestartPolicy.maxDelayMs, input.baseDelayMs ?? 0),
    multiplier: input.multiplier ?? defaultRestartPolicy.multiplier,
    resetAfterMs: input.resetAfterMs ?? defaultRestartPolicy.resetAfterMs,
    immediateAfterMs: input.immediateAfterMs ?? defaultRestartPolicy.immediateAfterMs,
    maxRestarts: input.maxRestarts,
    noRestartExitCodes: input.noRestartExitCodes ?? defaultRestartPolicy.noRestartExitCodes,
    crashLoopExits: input.crashLoopExits ?? defaultRestartPolicy.crashLoopExits,
    crashLoopWindowMs: input.crashLoopWindowMs ?? defaultRestartPolicy.crashLoopWindowMs,
  };
  if (policy.maxDelayMs < policy.baseDelayMs)
    violations.push({ field: `${field}.max_delay`, description: "must not be shorter than base_delay" });
  return policy;
}

function warningsOf(name: string, spec: ServiceSpec, apiToken: string | undefined): string[] {
  const warnings: string[] = [];
  if (apiToken !== undefined && apiToken.length < recommendedToken) {
    warnings.push(
      `${name}: the api_token has ${apiToken.length} characters; ${recommendedToken} or more are recommended`,
    );
  }
  if (spec.kind.type === "managed") {
    for (const variable of Object.keys(spec.kind.environment).filter(changesPrograms)) {
      warnings.push(`${name}: the variable ${variable} changes which code every program of the service runs`);
    }
  }
  return warnings;
}

function changesPrograms(variable: string): boolean {
  return /^(LD_|PYTHON|BASH_ENV$|ENV$|NODE_OPTIONS$|PERL5|RUBYOPT$|PATH$)/.test(variable);
}
