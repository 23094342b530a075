/** What a caller can act on. Everything else that is thrown is a bug of ours: logged whole, masked outside. */
export type ErrorCode =
  | "invalid_argument"
  | "unauthenticated"
  | "permission_denied"
  | "not_found"
  | "already_exists"
  | "aborted"
  | "failed_precondition"
  | "out_of_range"
  | "resource_exhausted"
  | "unavailable"
  | "deadline_exceeded"
  | "unimplemented";

/** The machine-readable cause of an error; printed as is in `google.rpc.ErrorInfo.reason`. The proto enum ErrorReason lists the same names. */
export type ErrorReason =
  | "VALIDATION_FAILED"
  | "MALFORMED_REQUEST"
  | "REQUEST_TOO_LARGE"
  | "REQUEST_ID_REUSED"
  | "PAGE_TOKEN_INVALID"
  | "FILTER_INVALID"
  | "TOKEN_MISSING"
  | "TOKEN_INVALID"
  | "TOKEN_EXPIRED"
  | "TOKEN_REVOKED"
  | "CERTIFICATE_UNKNOWN"
  | "CERTIFICATE_EXPIRED"
  | "SCOPE_MISSING"
  | "SERVICE_NOT_FOUND"
  | "SERVICE_EXISTS"
  | "SERVICE_DELETING"
  | "SERVICE_NOT_MANAGED"
  | "SERVICE_RUNNING"
  | "TOKEN_NOT_FOUND"
  | "TOKEN_IN_USE"
  | "INSTANCE_NOT_FOUND"
  | "SERVICE_NOT_RUNNING"
  | "SERVICE_IN_USE"
  | "ETAG_MISMATCH"
  | "USER_SWITCH_NOT_ALLOWED"
  | "PLATFORM_UNSUPPORTED"
  | "LIMIT_NOT_ENFORCEABLE"
  | "RATE_LIMITED"
  | "QUOTA_EXCEEDED"
  | "REVISION_COMPACTED"
  | "REVISION_IN_FUTURE"
  | "REVISION_NOT_FOUND"
  | "STORE_CHANGED"
  | "WATCHER_TOO_SLOW"
  | "STREAM_MAX_AGE"
  | "SERVER_DRAINING"
  | "STORE_UNAVAILABLE"
  | "PROXY_UNAVAILABLE"
  | "WAIT_TIMEOUT"
  | "WAIT_HOPELESS"
  | "METHOD_UNKNOWN";

/** One field that is wrong: its path in proto names ("service.spec.url") and what is allowed. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

export interface ErrorDetails {
  /** Every value that the message mentions, for programs. Never a secret. */
  readonly metadata?: Readonly<Record<string, string>>;
  readonly violations?: readonly FieldViolation[];
  /** The thing that is missing or in the way. */
  readonly resource?: { readonly type: "service" | "token" | "instance"; readonly name: string };
  /** Only on errors that a client may blindly retry. */
  readonly retryAfterMs?: number;
  readonly cause?: unknown;
}

/** An error for the caller: its message names the thing, its reason is for programs. Translated once, at the door (rpc/errors.ts). */
export class AppError extends Error {
  override readonly name = "AppError";
  readonly code: ErrorCode;
  readonly reason: ErrorReason;
  readonly metadata: Readonly<Record<string, string>>;
  readonly violations: readonly FieldViolation[];
  readonly resource: ErrorDetails["resource"];
  readonly retryAfterMs: number | undefined;

  constructor(code: ErrorCode, reason: ErrorReason, message: string, details: ErrorDetails = {}) {
    super(message, { cause: details.cause });
    this.code = code;
    this.reason = reason;
    this.metadata = details.metadata ?? {};
    this.violations = details.violations ?? [];
    this.resource = details.resource;
    this.retryAfterMs = details.retryAfterMs;
  }
}

/** The error of one or more wrong fields; the message names the first and counts the rest. */
export function invalid(...violations: readonly [FieldViolation, ...FieldViolation[]]): AppError {
  const [first, ...rest] = violations;
  const more = rest.length === 0 ? "" : ` (and ${rest.length} more)`;
  return new AppError("invalid_argument", "VALIDATION_FAILED", `${first.field}: ${first.description}${more}`, {
    violations,
  });
}

/** The error of a lookup that found no such service. */
export function serviceNotFound(name: string): AppError {
  return new AppError("not_found", "SERVICE_NOT_FOUND", `no service named ${JSON.stringify(name)}`, {
    metadata: { service: name },
    resource: { type: "service", name },
  });
}
