import { AppError } from "./errors.ts";

/** Who calls, and what this call may do. */
export interface Principal {
  readonly kind: "operator" | "service";
  /** The service's name, or `operator`. */
  readonly name: string;
  readonly serviceUid: string | undefined;
  readonly tokenId: string;
  readonly tokenExpireTime: Date | undefined;
  /** What it may do now: the token's scopes within its owner's rights. `*` stands for everything. */
  readonly scopes: readonly string[];
}

/** What a client certificate says of who shows it; the authority that signed it is trusted. */
export interface ClientCertificate {
  /** Its URI and DNS names or, if it has none, its common name. */
  readonly names: readonly string[];
  readonly expireTime: Date;
}

/** What a call needs. The grammar of a granted scope is `verb:thing[:part][!service=NAME]`. */
export type Scope =
  | "list:services"
  | "read:services"
  | "read:services:environment"
  | "read:services:logs"
  | "control:services"
  | "admin:services"
  | "tokens:services"
  | "read:routes"
  | "admin:routes"
  | "read:events";

export const allScopes: readonly Scope[] = [
  "list:services",
  "read:services",
  "read:services:environment",
  "read:services:logs",
  "control:services",
  "admin:services",
  "tokens:services",
  "read:routes",
  "admin:routes",
  "read:events",
];

/** Whether a principal has a scope: everywhere, or at least for the given service. */
export function may(principal: Principal, scope: Scope, service?: string): boolean {
  return principal.scopes.some((granted) => {
    if (granted === "*") return true;
    const [name, filter] = granted.split("!", 2);
    if (name !== scope) return false;
    return (
      filter === undefined || (service !== undefined && filter.toLowerCase() === `service=${service.toLowerCase()}`)
    );
  });
}

/** The services that a principal has a scope for; undefined: for all. */
export function servicesWith(principal: Principal, scope: Scope): readonly string[] | undefined {
  if (may(principal, scope)) return undefined;
  const prefix = `${scope}!service=`;
  return principal.scopes
    .filter((granted) => granted.startsWith(prefix))
    .map((granted) => granted.slice(prefix.length));
}

/** Throws permission_denied unless the principal has the scope. Checked before existence and before details of the request. Source: AIP-211. */
export function allow(principal: Principal, scope: Scope, service?: string): void {
  if (may(principal, scope, service)) return;
  const where = service === undefined ? "" : ` for service ${JSON.stringify(service)}`;
  throw new AppError("permission_denied", "SCOPE_MISSING", `${principal.name} lacks the scope ${scope}${where}`, {
    metadata: { scope, ...(service === undefined ? {} : { service }) },
  });
}

/** Whether everything granted by `wanted` is also granted by what the principal has. A token never grants more than its issuer has. */
export function covers(principal: Principal, wanted: string): boolean {
  if (principal.scopes.includes("*") || principal.scopes.includes(wanted)) return true;
  const [name] = wanted.split("!", 1);
  return name !== undefined && principal.scopes.includes(name);
}
