import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "../../gen/google/rpc/error_details_pb.ts";
import { ErrorReason } from "../../gen/steward/v1/error_pb.ts";

/** Why a call failed, with all that the server tells of it; `cause` is the error of the transport. */
export class StewardError extends Error {
  override readonly name = "StewardError";
  readonly code: Code;
  /** UNSPECIFIED when the answer is not Steward's (a server that is not there), or its reason is newer than this client. */
  readonly reason: ErrorReason;
  /** The fields of the request that are wrong, by their path in the proto. */
  readonly violations: readonly { readonly field: string; readonly description: string }[];
  /** How long to wait before trying again, where the server says so. */
  readonly retryDelayMs: number | undefined;
  /** What the reason is about: a scope, a state, a revision. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Names the call in the server's log; empty when the answer is not Steward's. */
  readonly requestId: string;

  constructor(error: ConnectError) {
    super(error.rawMessage, { cause: error });
    const info = error.findDetails(ErrorInfoSchema).find(({ domain }) => domain === "steward");
    const [retry] = error.findDetails(RetryInfoSchema);
    const [request] = error.findDetails(RequestInfoSchema);
    this.code = codeOf(error);
    this.reason = (info === undefined ? undefined : reasons.get(info.reason)) ?? ErrorReason.UNSPECIFIED;
    this.violations = error
      .findDetails(BadRequestSchema)
      .flatMap(({ fieldViolations }) => fieldViolations.map(({ field, description }) => ({ field, description })));
    this.retryDelayMs = retry?.retryDelay === undefined ? undefined : durationMs(retry.retryDelay);
    this.metadata = info?.metadata ?? {};
    this.requestId = request?.requestId ?? "";
  }
}

/** Whatever a call failed with. */
export function stewardErrorOf(error: unknown): StewardError {
  return error instanceof StewardError ? error : new StewardError(ConnectError.from(error));
}

const reasons: ReadonlyMap<string, ErrorReason> = new Map(Object.entries(ErrorReason));

/**
 * What the server says by resetting a stream, as gRPC reads it. connect-es does so only where the reset finds it reading; else it tells the error of
 * Node's stream, as a bug of somebody's.
 */
function codeOf({ code, cause }: ConnectError): Code {
  if (code !== Code.Internal || !(cause instanceof Error)) return code;
  const [, reset = ""] = /^Stream closed with error code NGHTTP2_(\w+)$/.exec(cause.message) ?? [];
  return codesOfResets.get(reset) ?? code;
}

const codesOfResets: ReadonlyMap<string, Code> = new Map([
  ["REFUSED_STREAM", Code.Unavailable],
  ["CANCEL", Code.Canceled],
  ["ENHANCE_YOUR_CALM", Code.ResourceExhausted],
]);
