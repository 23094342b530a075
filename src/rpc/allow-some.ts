import { allow, type Principal, type Scope } from "../domain/principal.ts";

/** Throws permission_denied unless the principal has the scope, everywhere or for some service. For lists and watches, which then show only those. */
export function allowSome(principal: Principal, scope: Scope): void {
  if (principal.scopes.some((granted) => granted.startsWith(`${scope}!`))) return;
  allow(principal, scope);
}
