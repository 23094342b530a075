import { execFileSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Account, Accounts } from "../../../src/supervisor/account.ts";
import { commandPid } from "../../../src/supervisor/instance-handle.ts";
import { type CommandSetting, settingOfAdopted } from "../../../src/supervisor/probes/command-setting.ts";
import { execQuestion } from "../../../src/supervisor/probes/exec.ts";
import type { Question } from "../../../src/supervisor/probes/question.ts";
import { stopInstance } from "../../../src/supervisor/stop.ts";
import { eventually } from "../../support/eventually.ts";
import { inheritedDescriptors, Workbench } from "../workbench.ts";

let bench: Workbench;
beforeEach(() => {
  bench = new Workbench();
  chmodSync(bench.directory, 0o755);
});
afterEach(() => bench.clear());
const never = new AbortController().signal;
const instanceId = "7b1f6a52-0000-4000-8000-000000000001";

function question(command: readonly string[], setting: Partial<CommandSetting> = {}, id = instanceId): Question {
  const environment = new Map([
    ["PATH", "/usr/bin:/bin"],
    ["STEWARD_INSTANCE", id],
  ]);
  const whole = { environment, cwd: "/", account: undefined, ...setting };
  return execQuestion(command, { instanceId: id, setting: async () => whole, leftovers: bench.leftovers });
}

/** A place for what a probe has to say: its output goes nowhere. */
const place = (name: string) => join(bench.directory, name);

test.each([
  [["true"], "yes", "it exits with code 0"],
  [["false"], "no", "it exits with code 1"],
  [["sh", "-c", "exit 3"], "no", "it exits with code 3"],
  [["/no/such/program"], "no", "it does not exist"],
  [["no-such-program"], "no", "it does not exist"],
  [["/etc/passwd"], "no", "it may not be executed, or its directory may not be entered"],
  [["sh", "-c", "kill -KILL $$"], "no", "it exits with code 137"],
  [["sh", "-c", "kill -KILL 0"], "no", "it was killed"],
])("%j is answered %s: %s", async (command, kind, message) => {
  expect(await question(command).ask(never, 10_000)).toEqual({ kind, message });
});

test("a directory that cannot be entered is a failure, and the command does not run", async () => {
  const answer = await question(["touch", place("ran")], { cwd: "/no/such/directory" }).ask(never, 10_000);

  expect(answer).toMatchObject({ kind: "no", message: expect.stringMatching(/directory/) });
  expect(existsSync(place("ran"))).toBe(false);
});

test("it runs in the service's environment and directory, with its umask, without any descriptor of ours, and bears its marker", async () => {
  const environment = new Map([
    ["PATH", "/usr/bin:/bin"],
    ["ODD", `a'b"c\\d$e\`f\n\n!*?~`],
    ["STEWARD_INSTANCE", instanceId],
  ]);
  const script = `pwd >"$0"; umask >>"$0"; env -0 >"$0.env"; ls /proc/self/fd >"$0.fd"`;

  await question(["sh", "-c", script, place("said")], { environment, cwd: "/usr" }).ask(never, 10_000);

  expect(readFileSync(place("said"), "utf8")).toBe("/usr\n0027\n");
  const descriptors = readFileSync(place("said.fd"), "utf8").trim().split("\n");
  // The last one is the directory that ls reads.
  expect(descriptors.filter((number) => !inheritedDescriptors.includes(number))).toEqual(["0", "1", "2", "3"]);
  const entries = readFileSync(place("said.env"), "utf8").split("\0").filter(Boolean);
  expect(entries.filter((entry) => !entry.startsWith("STEWARD_INSTANCE="))).toEqual(
    expect.arrayContaining([`ODD=${environment.get("ODD")}`, "PATH=/usr/bin:/bin"]),
  );
  expect(entries.find((entry) => entry.startsWith("STEWARD_INSTANCE="))).toMatch(`=${instanceId}/`);
});

test("one that hangs is killed with all that it started, also what left its session, and only then the answer is told", async () => {
  const script = `echo $$ >>"$0"; (echo $$; exec sleep 1000) & setsid sh -c 'echo $$ >>"$0"; exec sleep 1000' "$0" & sh -c 'trap "" TERM; echo $$ >>"$0"; sleep 1000' "$0"`;
  const asked = question(["sh", "-c", script, place("pids")]).ask(never, 3_000);
  const pids = await eventually(() => {
    const found = readFileSync(place("pids"), "utf8").trim().split("\n").map(Number);
    return found.length === 3 ? found : undefined;
  });

  expect(await asked).toEqual({ kind: "no", message: "no answer within 3000 ms" });
  expect(pids.filter(isRunning)).toEqual([]);
});

test("those which take too long do not pile up", async () => {
  const asking = question(["sh", "-c", "sleep 1000 & sleep 1000"]);

  for (let round = 0; round < 5; round++) expect(await asking.ask(never, 100)).toMatchObject({ kind: "no" });

  expect(marked(instanceId)).toEqual([]);
});

test("what one that ends in time leaves in its group ends with it", async () => {
  expect(await question(["sh", "-c", "sleep 1000 & exit 0"]).ask(never, 10_000)).toMatchObject({ kind: "yes" });

  await eventually(() => marked(instanceId).length === 0);
});

test("who gives up waiting is told so by a rejection, and nothing is left", async () => {
  const waiting = new AbortController();
  const answer = question(["sh", "-c", `echo $$ >"$0"; exec sleep 1000`, place("pid")]).ask(waiting.signal, 60_000);
  await eventually(() => readFileSync(place("pid"), "utf8"));

  waiting.abort(new Error("enough"));

  await expect(answer).rejects.toThrow("enough");
  expect(marked(instanceId)).toEqual([]);
});

test("a setting that nobody knows is no answer", async () => {
  const asking = execQuestion(["true"], {
    instanceId,
    setting: () => Promise.reject(new Error("its process is gone")),
    leftovers: bench.leftovers,
  });

  expect(await asking.ask(never, 1_000)).toEqual({ kind: "unasked", message: expect.stringMatching(/is gone/) });
});

test("a probe that is under way when its service is stopped goes with it", async () => {
  const launched = await bench.run(["sleep", "1000"]);
  const answer = question(["sh", "-c", `echo $$ >"$0"; exec sleep 1000`, place("pid")], {}, launched.instanceId).ask(
    never,
    60_000,
  );
  await eventually(() => readFileSync(place("pid"), "utf8"));

  expect(await stopInstance(launched, bench.leftovers, { graceMs: 100 })).toMatchObject({ stopped: true });

  expect(await answer).toMatchObject({ kind: "no" });
  expect(marked(launched.instanceId)).toEqual([]);
});

describe("of an instance that was adopted", () => {
  const ownUid = process.getuid?.() ?? -1;

  test("the setting is what its process was given", async () => {
    const launched = await bench.run(["sleep", "1000"], { environment: { SECRET: "a\nb" } });
    await eventually(async () => commandPid(launched) !== undefined && commandName(launched.identity.pid));

    const setting = await settingOfAdopted(launched, { account: undefined, cwd: "/tmp", ownUid });

    expect(setting).toMatchObject({ cwd: "/tmp", account: undefined });
    expect(setting.environment.get("SECRET")).toBe("a\nb");
    const script = `[ "$SECRET" = "a\nb" ]`;
    expect(await question(["sh", "-c", script], setting).ask(never, 10_000)).toMatchObject({ kind: "yes" });
  });

  test("a process of another user than the service's is not believed", async () => {
    const launched = await bench.run(["sleep", "1000"]);
    await eventually(async () => commandPid(launched) !== undefined && commandName(launched.identity.pid));

    await expect(
      settingOfAdopted(launched, { account: undefined, cwd: undefined, ownUid: ownUid + 1 }),
    ).rejects.toThrow("another user");
  });

  /** Whether the command has taken over from the shell at the gate. */
  function commandName(shim: number): boolean {
    const children = readFileSync(`/proc/${shim}/task/${shim}/children`, "utf8").trim();
    return readFileSync(`/proc/${children}/comm`, "utf8").trim() === "sleep";
  }
});

const isRoot = process.getuid?.() === 0;

describe.skipIf(!isRoot)("as root", () => {
  const suffix = Math.random().toString(36).slice(2, 8);
  const [user, group] = [`stw-p-${suffix}`, `stw-pg-${suffix}`];
  let account: Account;

  beforeAll(async () => {
    system("groupadd", group);
    system("useradd", "--no-create-home", "--groups", group, user);
    account = await new Accounts({ ownUid: 0, allowRoot: false }).resolve(user);
  });
  afterAll(() => {
    system("userdel", user);
    system("groupdel", group);
  });

  test("it runs as the service's user, with all groups and no new privileges", async () => {
    writeFileSync(place("said"), "");
    chmodSync(place("said"), 0o666);
    const script = `{ id -un; id -Gn; grep NoNewPrivs /proc/self/status; umask; } >"$0"`;

    expect(await question(["sh", "-c", script, place("said")], { account }).ask(never, 10_000)).toMatchObject({
      kind: "yes",
    });
    const [name, groups, privileges, umask] = readFileSync(place("said"), "utf8").trim().split("\n");
    expect([name, privileges, umask]).toEqual([user, "NoNewPrivs:\t1", "0027"]);
    expect(groups?.split(" ").sort()).toEqual([user, group].sort());
  });

  test("nothing that the service's environment names ever runs as root", async () => {
    const traps = place("traps");
    mkdirSync(traps);
    writeFileSync(place("log"), "");
    chmodSync(place("log"), 0o666);
    const report = `#!/bin/sh\n/usr/bin/id -u >>${place("log")}\n`;
    for (const name of ["setpriv", "sh", "env", "cat", "id", "echo", "cd", "kill"])
      writeFileSync(join(traps, name), report, { mode: 0o755 });
    const startup = join(traps, "startup");
    writeFileSync(startup, report);
    const environment = new Map([
      ["PATH", traps],
      ["BASH_ENV", startup],
      ["ENV", startup],
      ["STEWARD_INSTANCE", instanceId],
    ]);

    expect(await question(["env"], { account, environment }).ask(never, 10_000)).toMatchObject({ kind: "yes" });

    expect(new Set(readFileSync(place("log"), "utf8").trim().split("\n"))).toEqual(new Set([String(account.uid)]));
  });

  test("a directory that only root may enter is refused, though Steward is root", async () => {
    mkdirSync(place("secret"), { mode: 0o700 });

    const answer = await question(["true"], { account, cwd: place("secret") }).ask(never, 10_000);

    expect(answer).toMatchObject({ kind: "no", message: expect.stringMatching(/directory/) });
  });

  test("one of another user that hangs is killed, too", async () => {
    const asking = question(["sh", "-c", "setsid sleep 1000 & sleep 1000"], { account });

    expect(await asking.ask(never, 300)).toMatchObject({ kind: "no" });
    expect(marked(instanceId)).toEqual([]);
  });

  test("the setting of an adopted process that gave up its user is not believed", async () => {
    const launched = await bench.run(["sleep", "1000"], { account });
    await eventually(async () => {
      const pid = commandPid(launched);
      return pid !== undefined && /^Uid:\t[1-9]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
    });

    await expect(settingOfAdopted(launched, { account: undefined, cwd: undefined, ownUid: 0 })).rejects.toThrow(
      "another user",
    );
    expect(await settingOfAdopted(launched, { account, cwd: undefined, ownUid: 0 })).toMatchObject({ account });
  });
});

function system(program: string, ...args: string[]): void {
  execFileSync(program, args, { stdio: "ignore" });
}

/** The pids of all that bear the marker of an instance's probes. */
function marked(id: string): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter(Number.isInteger)
    .filter((pid) => isRunning(pid) && read(`/proc/${pid}/environ`).includes(`STEWARD_INSTANCE=${id}/`));
}

function isRunning(pid: number): boolean {
  const state = /^State:\t(\w)/m.exec(read(`/proc/${pid}/status`))?.[1];
  return state !== undefined && state !== "Z" && state !== "X";
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
