import { type AppliedService, ApplyAction, ApplyResponseSchema } from "../../gen/steward/v1/service_registry_pb.ts";
import { WaitCondition } from "../../gen/steward/v1/supervisor_pb.ts";
import type { Session } from "./command.ts";
import { printDifferences } from "./difference.ts";
import { allDone, exitCodeOf, exitCodes, UsageError, wrongFieldsOf } from "./failure.ts";
import { type Manifest, readManifest } from "./manifest.ts";
import { type OutputFormat, paint, printMessage, type Screen } from "./print.ts";
import { type WaitOptions, waitFor } from "./services.ts";

export interface ApplyOptions extends WaitOptions {
  readonly filename: string;
  readonly plan?: boolean;
  readonly prune?: boolean;
  readonly output: OutputFormat;
}

/** `steward apply -f FILE`: one transaction; with --plan only what it would do. */
export async function applyManifest(session: Session, options: ApplyOptions): Promise<void> {
  const manifest = await readManifest(options.filename);
  const { services, setName } = manifest;
  const request = {
    services: [...services],
    setName,
    prune: options.prune === true,
    validateOnly: options.plan === true,
  };
  const response = await session.registry.apply(request, { signal: session.signal }).catch((error: unknown) => {
    throw placed(error, manifest);
  });
  for (const warning of response.warnings) session.screen.writeError(`warning: ${warning}\n`);
  if (options.output === "json" || options.output === "yaml")
    printMessage(session.screen, options.output, ApplyResponseSchema, response);
  else
    for (const change of response.changes) {
      session.screen.write(`${changeLine(session.screen, change, options.plan === true)}\n`);
      if (options.plan === true) printDifferences(session.screen, change.differences);
    }
  if (options.wait === true && options.plan !== true)
    await waitForAll(session, response.changes, response.revision, options.timeout);
}

/** Says of each field that the server finds wrong where it stands in the file. */
function placed(error: unknown, manifest: Manifest): unknown {
  const fields = wrongFieldsOf(error);
  if (fields.length === 0 || exitCodeOf(error) !== exitCodes.usage) return error;
  const lines = fields.map(({ field, description }) => `  ${manifest.placeOf(field)}: ${field}: ${description}`);
  return new UsageError(["the services are wrong:", ...lines].join("\n"));
}

/** Waits for what was created or changed until it is ready, and for what was deleted until it is gone. */
async function waitForAll(
  session: Session,
  changes: readonly AppliedService[],
  revision: bigint,
  timeoutMs: number,
): Promise<void> {
  const waits = changes.map(async ({ action, name, service }) => {
    if (action === ApplyAction.DELETE) await waitFor(session, name, WaitCondition.DELETED, revision, timeoutMs);
    else if (service?.spec?.kind.case === "managed")
      await waitFor(session, name, WaitCondition.READY, revision, timeoutMs);
  });
  await allDone(waits);
}

function changeLine(screen: Screen, change: AppliedService, isPlan: boolean): string {
  const { name, restarts } = change;
  const what = change.paths.length === 0 ? "the set it belongs to" : change.paths.join(", ");
  switch (change.action) {
    case ApplyAction.CREATE:
      return paint(screen, "green", `+ ${name} ${isPlan ? "would be created" : "created"}`);
    case ApplyAction.UPDATE: {
      const effect = restarts ? ", restarts its process" : "";
      return paint(screen, "yellow", `~ ${name} ${isPlan ? "would be updated" : "updated"}: ${what}${effect}`);
    }
    case ApplyAction.DELETE:
      return paint(screen, "red", `- ${name} ${isPlan ? "would be deleted" : "deleted"}`);
    default:
      return paint(screen, "dim", `  ${name} unchanged`);
  }
}
