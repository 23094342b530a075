import { create, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import { type Violation, violationsToProto } from "@bufbuild/protovalidate";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  PreconditionFailureSchema,
  RequestInfoSchema,
  ResourceInfoSchema,
  RetryInfoSchema,
} from "../../gen/google/rpc/error_details_pb.ts";
import { AppError, type ErrorCode, type FieldViolation } from "../domain/errors.ts";

/** The `domain` of every ErrorInfo. */
export const errorDomain = "steward";

/** An error in the form that leaves the process: code, message and `google.rpc` details. Both listeners send the same one. */
export class RpcError extends ConnectError {
  /** Only what was made here: ConnectError takes everything of its shape for its own. */
  static override [Symbol.hasInstance](value: unknown): value is RpcError {
    return typeof value === "object" && value !== null && RpcError.prototype.isPrototypeOf(value);
  }

  constructor(code: Code, message: string, details: readonly Detail[], cause?: unknown) {
    super(message, code, undefined, undefined, cause);
    for (const { desc, value } of details) this.details.push({ desc, value });
  }
}

/** One error detail with its schema, ready to be packed into an Any. */
export interface Detail {
  readonly desc: DescMessage;
  readonly value: MessageShape<DescMessage>;
}

/** The broken protovalidate rules of a request. Leaves as BadRequest for everybody and as buf.validate.Violations for those who know it. */
export class RulesBroken extends AppError {
  readonly rules: readonly Violation[];

  constructor(rules: readonly Violation[], violations: readonly FieldViolation[]) {
    super("invalid_argument", "VALIDATION_FAILED", summary(violations), { violations });
    this.rules = rules;
  }
}

/** The one table of errors. What is neither an AppError nor already translated is a bug of ours: its text stays inside. */
export function rpcError(error: unknown, callId: string): RpcError {
  if (error instanceof RpcError) return error;
  if (error instanceof AppError) return fromAppError(error, callId);
  return new RpcError(
    Code.Internal,
    "internal error; the server's log has the cause under the request id",
    [errorInfo("INTERNAL", {}), requestInfo(callId)],
    error,
  );
}

/** Whether an error is a bug of ours, so that the log gets it whole. */
export function isBug(error: unknown): boolean {
  return !(error instanceof AppError) && !(error instanceof RpcError);
}

/** Why a call failed, in the word that its ErrorInfo has; undefined if the client ended it or its time was over. */
export function reasonOf({ cause }: RpcError): string | undefined {
  if (cause instanceof AppError) return cause.reason;
  return cause === undefined ? undefined : "INTERNAL";
}

/** The deadline that the client set has passed. */
export function deadlineExceeded(callId: string): RpcError {
  return new RpcError(Code.DeadlineExceeded, "the deadline of the call has passed", [requestInfo(callId)]);
}

/** The client is gone; nobody reads this error, it ends what the call waits for. */
export function clientGone(callId: string): RpcError {
  return new RpcError(Code.Canceled, "the client ended the call", [requestInfo(callId)]);
}

const codes: Readonly<Record<ErrorCode, Code>> = {
  invalid_argument: Code.InvalidArgument,
  unauthenticated: Code.Unauthenticated,
  permission_denied: Code.PermissionDenied,
  not_found: Code.NotFound,
  already_exists: Code.AlreadyExists,
  aborted: Code.Aborted,
  failed_precondition: Code.FailedPrecondition,
  out_of_range: Code.OutOfRange,
  resource_exhausted: Code.ResourceExhausted,
  unavailable: Code.Unavailable,
  deadline_exceeded: Code.DeadlineExceeded,
  unimplemented: Code.Unimplemented,
};

// Details travel in one HTTP/2 header, and common clients accept 8 KiB of headers: the first violations go, the rest is counted.
const maxViolations = 16;
const maxTextLength = 256;
const maxMessageLength = 1024;

function fromAppError(error: AppError, callId: string): RpcError {
  const message = clip(error.message, maxMessageLength);
  return new RpcError(codes[error.code], message, [...detailsOf(error), requestInfo(callId)], error);
}

function detailsOf(error: AppError): Detail[] {
  const details = [errorInfo(error.reason, metadataOf(error))];
  if (error.violations.length > 0) details.push(badRequest(error.violations));
  if (error instanceof RulesBroken) details.push(brokenRules(error.rules));
  if (error.code === "failed_precondition") details.push(preconditionFailure(error));
  if (error.resource !== undefined) details.push(resourceInfo(error.resource, error.message));
  if (error.retryAfterMs !== undefined) details.push(retryInfo(error.retryAfterMs));
  return details;
}

function metadataOf(error: AppError): Record<string, string> {
  const metadata: Record<string, string> = {};
  for (const [key, value] of Object.entries(error.metadata)) metadata[key] = clip(value, maxTextLength);
  if (error.violations.length > maxViolations) metadata["violations"] = String(error.violations.length);
  return metadata;
}

function errorInfo(reason: string, metadata: Record<string, string>): Detail {
  return detail(ErrorInfoSchema, { reason, domain: errorDomain, metadata });
}

function badRequest(violations: readonly FieldViolation[]): Detail {
  const fieldViolations = violations
    .slice(0, maxViolations)
    .map(({ field, description }) => ({ field, description: clip(description, maxTextLength) }));
  return detail(BadRequestSchema, { fieldViolations });
}

function brokenRules(rules: readonly Violation[]): Detail {
  const [value, desc] = violationsToProto(rules.slice(0, maxViolations));
  return { desc, value };
}

function preconditionFailure(error: AppError): Detail {
  const subject = error.resource === undefined ? "" : `${error.resource.type}/${error.resource.name}`;
  const description = clip(error.message, maxTextLength);
  return detail(PreconditionFailureSchema, { violations: [{ type: error.reason, subject, description }] });
}

function resourceInfo({ type, name }: { type: string; name: string }, message: string): Detail {
  const description = clip(message, maxTextLength);
  return detail(ResourceInfoSchema, { resourceType: type, resourceName: name, description });
}

function retryInfo(delayMs: number): Detail {
  const seconds = BigInt(Math.floor(delayMs / 1000));
  const nanos = Math.round((delayMs % 1000) * 1e6);
  return detail(RetryInfoSchema, { retryDelay: { seconds, nanos } });
}

function requestInfo(requestId: string): Detail {
  return detail(RequestInfoSchema, { requestId });
}

function detail<D extends DescMessage>(desc: D, init: MessageInitShape<D>): Detail {
  return { desc, value: create(desc, init) };
}

function summary([first, ...rest]: readonly FieldViolation[]): string {
  if (first === undefined) return "the request breaks a rule";
  const more = rest.length === 0 ? "" : ` (and ${rest.length} more)`;
  return `${first.field}: ${first.description}${more}`;
}

// Lone surrogates cannot be percent-encoded, which is how gRPC sends its message.
function clip(text: string, length: number): string {
  const wellFormed = text.toWellFormed();
  return wellFormed.length <= length ? wellFormed : `${wellFormed.slice(0, length - 3).toWellFormed()}...`;
}
