import { randomUUID } from "node:crypto";
import { instanceMarker, markerOfPart } from "../environment.ts";
import type { InstanceReference } from "../instance-handle.ts";
import type { Leftovers } from "../leftovers.ts";
import { identify } from "../process-identity.ts";
import { gateScript, switchUser } from "../shim.ts";
import { signalGroup, startTool } from "../spawn.ts";
import type { CommandSetting } from "./command-setting.ts";
import { type Answer, aborted, no, type Question, unasked, within, yes } from "./question.ts";

export interface ExecTools {
  readonly instanceId: string;
  /** As whom, where and with what environment. Throws when nobody knows. */
  readonly setting: () => Promise<CommandSetting>;
  readonly leftovers: Leftovers;
}

/**
 * A command, with exit code 0 for a success, as the service's user and in its environment and directory. As at a start, two shells stand before it: the first
 * leads a session of its own, tells the exit code and ends with whatever is left in its group; the second already is the user when it meets
 * the service's values.
 */
export function execQuestion(command: readonly string[], tools: ExecTools): Question {
  /** What could not be killed: nothing is begun beside it, or they would pile up. */
  let stuck: InstanceReference | undefined;
  const ask = async (signal: AbortSignal, timeoutMs: number): Promise<Answer> => {
    if (stuck !== undefined && (await tools.leftovers.kill(stuck, 0)).length > 0)
      return no("the last one cannot be ended");
    stuck = undefined;
    return within(signal, timeoutMs, async (limit) => {
      const setting = await tools.setting().catch((error: unknown) => String(error));
      if (typeof setting === "string") return unasked(setting);
      return run(command, setting, limit);
    });
  };

  const run = async (argv: readonly string[], setting: CommandSetting, limit: AbortSignal): Promise<Answer> => {
    const marker = markerOfPart(tools.instanceId, randomUUID());
    const { account, cwd } = setting;
    const environment = new Map([...setting.environment, [instanceMarker, marker]]);
    const script = gateScript({ argv, cwd, fallbackCwd: process.cwd(), environment, notifyFd: undefined });
    const shells = [
      "-c",
      leaderText,
      "steward-probe",
      ...(account === undefined ? [] : switchUser(account)),
      "/bin/sh",
    ];
    const tool = startTool("/bin/sh", shells, script);
    const identity = tool.pid === undefined ? undefined : identify(tool.pid);
    if (identity === undefined) return unasked("the system refused a new process");
    try {
      const { output } = await Promise.race([tool.result, aborted(limit)]);
      return judge(output);
    } catch (error) {
      const all = { instanceId: marker, runDir: "", identity };
      signalGroup(identity, "SIGKILL");
      if ((await tools.leftovers.kill(all)).length > 0) stuck = all;
      throw error;
    }
  };
  return { subject: `the command ${command[0] ?? ""}`, ask };
}

/** Runs as Steward, with a fixed environment. What the command started goes with it: nobody else is in the group. */
const leaderText = `# runs one probe of a service
PATH=/usr/sbin:/usr/bin:/sbin:/bin
(exec "$@" >/dev/null 2>&1 3>/dev/null)
echo $?
kill -KILL 0`;

function judge(output: string): Answer {
  switch (output.trim()) {
    case "0":
      return yes("it exits with code 0");
    case "":
      return no("it was killed");
    case "126":
      return no("it may not be executed, or its directory may not be entered");
    case "127":
      return no("it does not exist");
    default:
      return no(`it exits with code ${output.trim()}`);
  }
}
