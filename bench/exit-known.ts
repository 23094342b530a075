import { join } from "node:path";
import { adopt } from "../src/supervisor/adoption.ts";
import { commandPid } from "../src/supervisor/instance-handle.ts";
import { type Launched, Launcher } from "../src/supervisor/launcher.ts";
import { Leftovers } from "../src/supervisor/leftovers.ts";
import { ProcessTable } from "../src/supervisor/process-table.ts";
import { Shims } from "../src/supervisor/shims.ts";
import { eventually } from "../test/support/eventually.ts";
import { type Figure, figureAlone, percentile } from "./figure.ts";

const samples = 200;

/** From SIGKILL of a process to its recorded exit in the hands of the server that started it, and of one that only adopted it. */
export async function exitKnown(directory: string): Promise<Figure[]> {
  const leftovers = new Leftovers(new ProcessTable());
  const launcher = new Launcher({ leftovers, cwd: "/", shims: new Shims({ place: directory }) });
  // What is waited for keeps nobody awake.
  const awake = setInterval(() => undefined, 60_000);
  const took = { parent: [] as number[], adopter: [] as number[] };
  for (let sample = 0; sample < samples; sample++) {
    const place = join(directory, `exit-${sample}`);
    const launched = await launchSleep(launcher, place);
    const pid = await eventually(() => commandPid(launched), { everyMs: 1 });
    const adoption = await adopt(launched, leftovers);
    if (!adoption.alive) throw new Error("it has ended already");
    const start = performance.now();
    const since = () => performance.now() - start;
    process.kill(pid, "SIGKILL");
    const [parent, adopter] = await Promise.all([launched.exited.then(since), adoption.handle.exited.then(since)]);
    took.parent.push(parent);
    took.adopter.push(adopter);
  }
  clearInterval(awake);
  return [...figuresOf("parent", took.parent), ...figuresOf("adopter", took.adopter)];
}

async function launchSleep(launcher: Launcher, place: string): Promise<Launched> {
  const launched = await launcher.launch({
    instanceId: place,
    runDir: place,
    stdoutPath: `${place}.out`,
    stderrPath: `${place}.err`,
    argv: ["/bin/sleep", "1000"],
    cwd: undefined,
    environment: new Map([["STEWARD_INSTANCE", place]]),
    account: undefined,
    limits: {},
    unenforced: "",
    notifyFd: undefined,
  });
  await launched.release();
  return launched;
}

function figuresOf(who: string, values: readonly number[]): Figure[] {
  const aim = { atMost: 10 };
  return [50, 99].map((part) =>
    figureAlone({ name: `exit known to the ${who}, p${part}`, unit: "ms", aim }, percentile(values, part / 100)),
  );
}
