import { Code, ConnectError } from "@connectrpc/connect";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "../../gen/google/rpc/error_details_pb.ts";

/** An error as every client of Steward gets it. */
export interface Refusal {
  readonly code: keyof typeof Code;
  readonly message: string;
  /** The `reason` of its ErrorInfo. */
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
  /** The fields that its BadRequest names. */
  readonly fields: readonly string[];
  readonly requestId: string;
  /** Whether its RetryInfo says when to try again. */
  readonly mayRetry: boolean;
}

/** The error that a call ends with; throws if it succeeds, or fails with something that is not of Steward. */
export async function refusalOf(call: Promise<unknown>): Promise<Refusal> {
  const error = await call.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (error === undefined) throw new Error("the call was not refused");
  return readRefusal(error);
}

export function readRefusal(error: unknown): Refusal {
  if (!(error instanceof ConnectError)) throw new Error("not an error of a call", { cause: error });
  const [info] = error.findDetails(ErrorInfoSchema);
  const [badRequest] = error.findDetails(BadRequestSchema);
  const [request] = error.findDetails(RequestInfoSchema);
  const [retry] = error.findDetails(RetryInfoSchema);
  if (info === undefined) throw new Error(`the error has no ErrorInfo: ${error.message}`, { cause: error });
  return {
    code: Code[error.code] as keyof typeof Code,
    message: error.rawMessage,
    reason: info.reason,
    metadata: info.metadata,
    fields: badRequest?.fieldViolations.map(({ field }) => field) ?? [],
    requestId: request?.requestId ?? "",
    mayRetry: retry?.retryDelay !== undefined,
  };
}
