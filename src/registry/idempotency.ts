/** JSON that keeps dates and bigints: how an answer is stored to be given again. */
export function encodeAnswer(value: unknown): string {
  return JSON.stringify(tag(value));
}

export function decodeAnswer<T>(text: string): T {
  return untag(JSON.parse(text)) as T;
}

function tag(value: unknown): unknown {
  if (value instanceof Date) return { $date: value.toISOString() };
  if (typeof value === "bigint") return { $bigint: String(value) };
  if (Array.isArray(value)) return value.map(tag);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, tag(part)]));
}

function untag(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(untag);
  if (typeof value !== "object" || value === null) return value;
  if ("$date" in value && typeof value.$date === "string") return new Date(value.$date);
  if ("$bigint" in value && typeof value.$bigint === "string") return BigInt(value.$bigint);
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, untag(part)]));
}
