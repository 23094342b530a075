import { AppError } from "../domain/errors.ts";

/** The longest time that a timer of Node can wait; a longer one would fire at once. */
const maxTimerMs = 2 ** 31 - 1;

const unitsMs: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 1e-3, n: 1e-6 };

/** Reads the gRPC header `grpc-timeout` into milliseconds; undefined without one. Throws MALFORMED_REQUEST. */
export function grpcTimeoutMs(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  const [, count, unit] = /^(\d{1,8})([HMSmun])$/.exec(header) ?? [];
  const unitMs = unitsMs[unit ?? ""];
  if (count === undefined || unitMs === undefined) throw malformed("grpc-timeout", header);
  return clamp(Number(count) * unitMs);
}

/** Reads the Connect header `connect-timeout-ms`; undefined without one. Throws MALFORMED_REQUEST. */
export function connectTimeoutMs(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  if (!/^\d{1,10}$/.test(header)) throw malformed("connect-timeout-ms", header);
  return clamp(Number(header));
}

function clamp(timeoutMs: number): number {
  return Math.min(timeoutMs, maxTimerMs);
}

function malformed(header: string, value: string): AppError {
  const shown = JSON.stringify(value.slice(0, 32));
  return new AppError("invalid_argument", "MALFORMED_REQUEST", `the header ${header} is not a timeout: ${shown}`, {
    metadata: { header },
  });
}
