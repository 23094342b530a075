/** What came of asking once. */
export type Answer =
  | { readonly kind: "yes"; readonly message: string }
  | { readonly kind: "no"; readonly message: string }
  /** The question never reached the service, which says nothing of it. */
  | { readonly kind: "unasked"; readonly message: string };

/** Something that can be asked of a service. */
export interface Question {
  /** Who is asked for what, for people. */
  readonly subject: string;
  /** Resolves when nothing of the question is left, a moment after the time at the latest; rejects only when the signal aborts. */
  ask(signal: AbortSignal, timeoutMs: number): Promise<Answer>;
}

export function yes(message: string): Answer {
  return { kind: "yes", message };
}

export function no(message: string): Answer {
  return { kind: "no", message };
}

export function unasked(message: string): Answer {
  return { kind: "unasked", message };
}

/** Runs one try, whose signal aborts when its time is over. What it throws is an answer, too. */
export async function within(
  signal: AbortSignal,
  timeoutMs: number,
  run: (limit: AbortSignal) => Promise<Answer>,
): Promise<Answer> {
  signal.throwIfAborted();
  const limit = new AbortController();
  const onAbort = (): void => limit.abort(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  const timer = setTimeout(() => limit.abort(new Error("late")), Math.ceil(timeoutMs));
  try {
    return await run(limit.signal);
  } catch (error) {
    signal.throwIfAborted();
    if (limit.signal.aborted) return no(`no answer within ${Math.round(timeoutMs)} ms`);
    return isOurs(error) ? unasked(describe(error)) : no(describe(error));
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}

/** Rejects when the signal aborts. */
export function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    else signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/** What this host lacks when it cannot even ask. */
const lacking = new Set(["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EAGAIN", "EADDRNOTAVAIL"]);

function isOurs(error: unknown): boolean {
  return error instanceof Error && "code" in error && lacking.has(String(error.code));
}

function describe(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return describe(error.errors[0]);
  return error instanceof Error ? error.message : String(error);
}
