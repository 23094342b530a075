import { durationMs } from "@bufbuild/protobuf/wkt";
import { ExplainResponseSchema, type ProbeResult } from "../../gen/steward/v1/supervisor_pb.ts";
import type { Session } from "./command.ts";
import { age, clockTime, type OutputFormat, paint, printMessage } from "./print.ts";
import { causeWord, probeRoleWord } from "./words.ts";

/** `steward explain NAME`: why it is not running, not ready or not routed, one cause a line. */
export async function explainService(session: Session, name: string, options: { output: OutputFormat }): Promise<void> {
  const { screen, signal } = session;
  const explanation = await session.supervisor.explain({ name }, { signal });
  if (options.output === "json" || options.output === "yaml")
    return printMessage(screen, options.output, ExplainResponseSchema, explanation);
  const { well, summary, causes, lastLines, probeResults } = explanation;
  screen.write(`${paint(screen, well ? "green" : "yellow", summary)}\n`);
  if (well) return;
  screen.write("\nBecause:\n");
  causes.forEach(({ kind, service, message, time }, depth) => {
    const who = service === name ? "" : `${service}: `;
    const when = time === undefined ? "" : paint(screen, "dim", `  (${clockTime(time)})`);
    screen.write(`${"  ".repeat(depth + 1)}${causeWord(kind)}: ${who}${message}${when}\n`);
  });
  if (probeResults.length > 0) {
    screen.write("\nLast answers of its probes:\n");
    for (const result of probeResults) screen.write(`  ${probeLine(result)}\n`);
  }
  if (lastLines.length > 0) {
    screen.write("\nLast lines of its output:\n");
    for (const line of lastLines) screen.write(`  ${line}\n`);
  }
}

function probeLine({ role, success, message, time, duration }: ProbeResult): string {
  const took = duration === undefined ? "" : `, ${Math.round(durationMs(duration))} ms`;
  return `${age(time)} ago  ${probeRoleWord(role)}  ${success ? "ok" : "failed"}${took}${message === "" ? "" : `: ${message}`}`;
}
