import { AppError, type FieldViolation, invalid } from "./errors.ts";

const pattern = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;

/** Members of every JavaScript object: as a path segment they break proxies written in it. */
const refused = new Set(
  [
    "constructor",
    "prototype",
    "toString",
    "valueOf",
    "hasOwnProperty",
    "isPrototypeOf",
    "propertyIsEnumerable",
    "toLocaleString",
  ].map((word) => word.toLowerCase()),
);

/** What is wrong with a name, if anything. */
export function checkServiceName(name: string, field: string): FieldViolation | undefined {
  if (!pattern.test(name)) {
    return {
      field,
      description:
        "must be 1 to 63 letters, digits, dots, dashes and underscores, and begin and end with a letter or digit" +
        `, not ${JSON.stringify(name.slice(0, 80))}`,
    };
  }
  if (refused.has(nameKey(name)))
    return { field, description: `${JSON.stringify(name)} is a word that breaks proxies; choose another name` };
  return undefined;
}

/** Throws invalid_argument unless the name may be given to a service. */
export function parseServiceName(name: string, field: string): string {
  const violation = checkServiceName(name, field);
  if (violation !== undefined) throw invalid(violation);
  return name;
}

/** Names are unique without regard to case: this is what must be unique. */
export function nameKey(name: string): string {
  return name.toLowerCase();
}

export function serviceExists(name: string, existing: string): AppError {
  const as = existing === name ? "" : ` (as ${JSON.stringify(existing)}; names differ by more than case)`;
  return new AppError("already_exists", "SERVICE_EXISTS", `a service named ${JSON.stringify(name)} exists${as}`, {
    metadata: { service: existing },
    resource: { type: "service", name: existing },
  });
}
