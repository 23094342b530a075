import { AppError } from "../domain/errors.ts";

/** The body could not be read as the request's type. `why` must not quote the body: it may hold a secret. */
export function malformedBody(why: string, field?: string): AppError {
  const violations = field === undefined ? [] : [{ field, description: why }];
  const message = field === undefined ? `the request cannot be read: ${why}` : `${field}: ${why}`;
  const metadata: Record<string, string> = field === undefined ? {} : { field };
  return new AppError("invalid_argument", "MALFORMED_REQUEST", message, { metadata, violations });
}

/** The request is over the limit. */
export function requestTooLarge(limitBytes: number): AppError {
  return new AppError(
    "resource_exhausted",
    "REQUEST_TOO_LARGE",
    `the request is larger than the limit of ${limitBytes} bytes`,
    { metadata: { limit: String(limitBytes) } },
  );
}

/** The response is over the limit; the client can ask for less at a time. */
export function responseTooLarge(limitBytes: number): AppError {
  return new AppError(
    "resource_exhausted",
    "REQUEST_TOO_LARGE",
    `the response is larger than the limit of ${limitBytes} bytes; ask for less, with a smaller page_size for example`,
    { metadata: { limit: String(limitBytes) } },
  );
}

/** No such method. */
export function methodUnknown(path: string): AppError {
  const method = path.slice(0, 256);
  return new AppError("unimplemented", "METHOD_UNKNOWN", `there is no method ${JSON.stringify(method)}`, {
    metadata: { method },
  });
}

/** What protobuf-es says about JSON that does not fit, without the values that it quotes. */
export function malformedJson(parserMessage: string): AppError {
  for (const [pattern, explain] of explanations) {
    const match = pattern.exec(parserMessage);
    if (match !== null) return explain(match[1] ?? "", match[2] ?? "");
  }
  return malformedBody("it is not valid JSON of this type");
}

type Explain = (first: string, second: string) => AppError;

const explanations: readonly (readonly [RegExp, Explain])[] = [
  [
    /decode message (\S+) from JSON: key "(.*)" is unknown$/s,
    (type, key) => malformedBody(`${type} has no such field`, shown(key)),
  ],
  [/decode field \S*\.(\w+) from JSON: set multiple times/, (field) => malformedBody("given twice", field)],
  [
    /decode oneof \S*\.(\w+) from JSON: oneof set multiple times by (\w+ and \w+)/,
    (oneof, both) => malformedBody(`only one of ${both} may be given`, oneof),
  ],
  [
    /decode field \S*\.(\w+) from JSON: (?:.*: )?(expected [^,:]+)/s,
    (field, expected) => malformedBody(expected, field),
  ],
  [/decode field \S*\.(\w+) from JSON/, (field) => malformedBody("the value does not fit the field", field)],
  [/decode enum (\S+) from JSON/, (type) => malformedBody(`a value is not one of ${type}`)],
  [/at position \d+ \((line \d+ column \d+)\)/, (place) => malformedBody(`it is not valid JSON (${place})`)],
  [/decode message (\S+) from JSON/, (type) => malformedBody(`it is not valid JSON of ${type}`)],
];

// The name of an unknown field is the client's text: enough of it to find the typing error, no more.
function shown(key: string): string {
  return key.length <= 64 ? key : `${key.slice(0, 61)}...`;
}
