import type { Log } from "./promises.ts";

/** What a writer was told of one request. */
export interface Answer {
  /** In words. */
  readonly request: string;
  readonly requestId: string;
  /** Whether an answer without any event may be right: nothing differed. */
  readonly mayChangeNothing: boolean;
  readonly outcome:
    | { readonly kind: "done" | "validated"; readonly revision: bigint }
    | { readonly kind: "refused"; readonly code: string; readonly reason: string }
    | { readonly kind: "unanswered" };
}

/** What of the answers the log contradicts: what is acknowledged is there, once, what is refused or only tried is not. */
export function brokenAnswers(log: Log, answers: readonly Answer[]): string[] {
  return [...Map.groupBy(answers, ({ requestId }) => requestId)].flatMap(([requestId, all]) => {
    const revisions = new Set(log.events.flatMap((event) => (event.requestId === requestId ? event.revision : [])));
    const acknowledged = new Set(all.flatMap(({ outcome }) => (outcome.kind === "done" ? outcome.revision : [])));
    const there = `is at ${[...revisions].join(", ") || "no revision"}`;
    const faults = all.flatMap((answer) => faultOf(answer, [...revisions]) ?? []);
    if (acknowledged.size > 1) faults.push(`was answered with ${[...acknowledged].join(", ")}`);
    return faults.map((fault) => `${all[0]?.request} (${requestId}) ${fault}, and ${there}`);
  });
}

function faultOf({ outcome, mayChangeNothing }: Answer, revisions: readonly bigint[]): string | undefined {
  const [revision, ...others] = revisions;
  if (others.length > 0) return "was done more than once";
  switch (outcome.kind) {
    case "done":
      if (revision === undefined) return mayChangeNothing ? undefined : "was acknowledged";
      return revision === outcome.revision ? undefined : `was acknowledged at ${outcome.revision}`;
    case "validated":
      return revision === undefined && outcome.revision === 0n ? undefined : "was only to be validated";
    case "refused":
      if (["Internal", "Unknown", "DataLoss"].includes(outcome.code)) return `met a bug: ${outcome.reason}`;
      return revision === undefined ? undefined : `was refused with ${outcome.reason}`;
    case "unanswered":
      return undefined;
  }
}
