import type { FieldViolation } from "./errors.ts";

/** What a probe is for. */
export type ProbeRole = "startup" | "readiness" | "liveness" | "external";

/** What is asked of a service. Ports and paths that are undefined are those of its url and its public prefix. */
export type ProbeAction =
  | { readonly kind: "http"; readonly path: string | undefined; readonly port: number | undefined }
  | { readonly kind: "tcp"; readonly port: number | undefined }
  | { readonly kind: "grpc"; readonly port: number | undefined; readonly service: string }
  | { readonly kind: "exec"; readonly command: readonly [string, ...string[]] }
  /** The process writes a line to this descriptor once it is ready. */
  | { readonly kind: "notify"; readonly fd: number };

/** A question that is asked again and again, one at a time; no answer in time is a failure. */
export interface Probe {
  readonly action: ProbeAction;
  readonly periodMs: number;
  readonly timeoutMs: number;
  readonly failureThreshold: number;
  readonly successThreshold: number;
}

/** A probe as a client wrote it. */
export type ProbeInput = {
  readonly [K in keyof Probe]?: K extends "action" ? ProbeActionInput | undefined : Probe[K] | undefined;
};

export type ProbeActionInput =
  | Exclude<ProbeAction, { kind: "exec" }>
  | { readonly kind: "exec"; readonly command: readonly string[] };

const defaults: Readonly<Record<ProbeRole, Omit<Probe, "action">>> = {
  startup: { periodMs: 5_000, timeoutMs: 2_000, failureThreshold: 3, successThreshold: 1 },
  readiness: { periodMs: 10_000, timeoutMs: 2_000, failureThreshold: 3, successThreshold: 1 },
  liveness: { periodMs: 10_000, timeoutMs: 2_000, failureThreshold: 6, successThreshold: 1 },
  external: { periodMs: 60_000, timeoutMs: 2_000, failureThreshold: 1, successThreshold: 1 },
};

/** The probe that asks a service with a url for its public prefix, as every service with a url is asked by default. */
export function defaultProbe(role: ProbeRole): Probe {
  return { ...defaults[role], action: { kind: "http", path: undefined, port: undefined } };
}

/** Fills in the defaults of the role and adds what is wrong to `violations`. `hasUrl`: whether ports have a default. */
export function parseProbe(
  input: ProbeInput | undefined,
  { role, field, hasUrl }: { role: ProbeRole; field: string; hasUrl: boolean },
  violations: FieldViolation[],
): Probe | undefined {
  if (input === undefined) return undefined;
  const action = parseAction(input.action, { role, field, hasUrl }, violations);
  if (action === undefined) return undefined;
  const standard = defaults[role];
  return {
    action,
    periodMs: input.periodMs ?? standard.periodMs,
    timeoutMs: input.timeoutMs ?? standard.timeoutMs,
    failureThreshold: input.failureThreshold ?? standard.failureThreshold,
    successThreshold: input.successThreshold ?? standard.successThreshold,
  };
}

function parseAction(
  action: ProbeActionInput | undefined,
  { role, field, hasUrl }: { role: ProbeRole; field: string; hasUrl: boolean },
  violations: FieldViolation[],
): ProbeAction | undefined {
  switch (action?.kind) {
    case undefined:
      violations.push({ field: `${field}.kind`, description: "must be set: http, tcp, grpc, exec or notify" });
      return undefined;
    case "http":
    case "tcp":
    case "grpc":
      if (action.port === undefined && !hasUrl)
        violations.push({
          field: `${field}.${action.kind}.port`,
          description: "must be set for a service without a url",
        });
      return action;
    case "exec":
      return parseExec(action.command, { role, field: `${field}.exec` }, violations);
    case "notify":
      if (role !== "startup" && role !== "readiness")
        violations.push({ field: `${field}.notify`, description: "can only tell a startup or a readiness" });
      return action;
  }
}

function parseExec(
  [program = "", ...args]: readonly string[],
  { role, field }: { role: ProbeRole; field: string },
  violations: FieldViolation[],
): ProbeAction {
  if (role === "external") violations.push({ field, description: "needs a managed service, whose user it runs as" });
  if (program === "") violations.push({ field: `${field}.command`, description: "must name a program" });
  if ([program, ...args].some((word) => word.includes("\0")))
    violations.push({ field: `${field}.command`, description: "must not contain a NUL character" });
  return { kind: "exec", command: [program, ...args] };
}
