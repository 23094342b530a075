import { Code, StewardError } from "../client.ts";

/** The command line itself is wrong. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** Exit codes for scripts; printed by `steward --help`. */
export const exitCodes = {
  failed: 1,
  usage: 2,
  notFound: 3,
  denied: 4,
  conflict: 5,
  unavailable: 6,
  timeout: 7,
} as const;

/** The exit code that tells a script what kind of failure it was. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof AggregateError) return exitCodeOf(error.errors[0]);
  if (error instanceof UsageError) return exitCodes.usage;
  if (!(error instanceof StewardError)) return exitCodes.failed;
  switch (error.code) {
    case Code.InvalidArgument:
      return exitCodes.usage;
    case Code.NotFound:
      return exitCodes.notFound;
    case Code.Unauthenticated:
    case Code.PermissionDenied:
      return exitCodes.denied;
    case Code.Aborted:
    case Code.AlreadyExists:
    case Code.FailedPrecondition:
      return exitCodes.conflict;
    case Code.Unavailable:
      return exitCodes.unavailable;
    case Code.DeadlineExceeded:
      return exitCodes.timeout;
    default:
      return exitCodes.failed;
  }
}

/** Waits for all of them; throws everything that failed. */
export async function allDone(work: readonly Promise<unknown>[]): Promise<void> {
  const outcomes = await Promise.allSettled(work);
  const failures = outcomes.flatMap((outcome) => (outcome.status === "rejected" ? [outcome.reason as unknown] : []));
  if (failures.length > 0) throw new AggregateError(failures);
}

/** What a person reads: the message, then each wrong field on a line of its own, then what to do about it. */
export function explain(error: unknown, address: () => string): string {
  if (!(error instanceof StewardError)) return error instanceof Error ? error.message : String(error);
  const fields = wrongFieldsOf(error);
  if (fields.length > 0)
    return ["the request is wrong:", ...fields.map((each) => `  ${each.field}: ${each.description}`)].join("\n");
  return [error.message, hint(error, address)].filter(Boolean).join("\n");
}

/** The fields that the server found wrong, if that is what it says. */
export function wrongFieldsOf(error: unknown): StewardError["violations"] {
  return error instanceof StewardError ? error.violations : [];
}

function hint(error: StewardError, address: () => string): string {
  if (error.code === Code.Unauthenticated)
    return "Give a token with --token-file or STEWARD_TOKEN; that of a local server is found by itself.";
  if (error.code === Code.Unavailable)
    return `Is the server running? Tried ${address()}; choose another with --address or STEWARD_ADDRESS.`;
  return "";
}
