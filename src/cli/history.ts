import {
  RollbackResponseSchema,
  type SpecRevision,
  SpecRevisionSchema,
} from "../../gen/steward/v1/service_registry_pb.ts";
import { WaitCondition } from "../../gen/steward/v1/supervisor_pb.ts";
import type { Session } from "./command.ts";
import { printDifferences } from "./difference.ts";
import { UsageError } from "./failure.ts";
import { clockTime, type OutputFormat, printList, printMessage, printTable } from "./print.ts";
import { type WaitOptions, waitFor } from "./services.ts";

/** `steward history NAME`: the specs that a service had, newest first. */
export async function showHistory(session: Session, name: string, options: { output: OutputFormat }): Promise<void> {
  const revisions: SpecRevision[] = [];
  let pageToken = "";
  do {
    const page = await session.registry.listRevisions({ name, pageToken }, { signal: session.signal });
    revisions.push(...page.revisions);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  const { screen } = session;
  if (options.output === "json" || options.output === "yaml")
    return printList(screen, options.output, SpecRevisionSchema, revisions);
  const rows = revisions.map(({ revision, time, actor, paths }) => [
    String(revision),
    clockTime(time),
    actor,
    paths.length === 0 ? "-" : paths.join(", "),
  ]);
  printTable(screen, ["REVISION", "TIME", "BY", "CHANGED"], rows);
}

export interface RollbackOptions extends WaitOptions {
  readonly to: bigint;
  readonly plan?: boolean;
  readonly output: OutputFormat;
}

/** `steward rollback NAME --to REVISION`: gives it the spec that it had; with --plan only what it would do. */
export async function rollBack(session: Session, name: string, options: RollbackOptions): Promise<void> {
  const isPlan = options.plan === true;
  const request = { name, revision: options.to, validateOnly: isPlan };
  const response = await session.registry.rollback(request, { signal: session.signal });
  const { screen } = session;
  const { differences, restarts, service, revision, warnings } = response;
  for (const warning of warnings) screen.writeError(`warning: ${warning}\n`);
  if (options.output === "json" || options.output === "yaml")
    printMessage(screen, options.output, RollbackResponseSchema, response);
  else if (differences.length === 0) screen.write(`${name} is as it was at revision ${options.to}\n`);
  else {
    const effect = restarts ? ", restarts its process" : "";
    screen.write(`${name} ${isPlan ? "would be " : ""}rolled back to revision ${options.to}${effect}\n`);
    printDifferences(screen, differences);
  }
  if (options.wait === true && !isPlan && service?.spec?.kind.case === "managed")
    await waitFor(session, name, WaitCondition.READY, revision, options.timeout);
}

/** Reads the revision of `--to`. */
export function parseRevision(text: string): bigint {
  if (!/^[1-9]\d{0,17}$/.test(text))
    throw new UsageError(`--to is a revision from steward history, not ${JSON.stringify(text)}`);
  return BigInt(text);
}
