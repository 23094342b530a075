import { execFileSync } from "node:child_process";
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { Limits } from "../../src/domain/limits.ts";
import { type Account, Accounts, lookUpAccount } from "../../src/supervisor/account.ts";
import { resolveCommand } from "../../src/supervisor/command.ts";
import { commandPid } from "../../src/supervisor/instance-handle.ts";
import { readStat } from "../../src/supervisor/process-identity.ts";
import { stopInstance } from "../../src/supervisor/stop.ts";
import { eventually } from "../support/eventually.ts";
import { type OwnPlane, openPlane } from "./own-plane.ts";
import type { Plane } from "./plane.ts";
import { inheritedDescriptors, Workbench } from "./workbench.ts";

/** All that the chain sets itself; high enough to be in nobody's way. */
const everyLimit = { openFiles: 100, processes: 10_000, addressSpaceBytes: 8 * 2 ** 30, coreBytes: 0, nice: 1 };

const isRoot = process.getuid?.() === 0;
if (!isRoot) process.stderr.write("Not root: nothing about switching users is tested.\n");

describe.skipIf(!isRoot)("as root", () => {
  const suffix = Math.random().toString(36).slice(2, 8);
  const [first, second, groupA, groupB] = [
    `stw-a-${suffix}`,
    `stw-b-${suffix}`,
    `stw-ga-${suffix}`,
    `stw-gb-${suffix}`,
  ];
  const rules = { ownUid: 0, allowRoot: false };
  let accounts: Accounts;
  let account: Account;
  let bench: Workbench;

  beforeAll(async () => {
    system("groupadd", groupA);
    system("groupadd", groupB);
    system("useradd", "--no-create-home", "--shell", "/bin/sh", "--groups", `${groupA},${groupB}`, first);
    system("useradd", "--no-create-home", "--groups", groupB, second);
    accounts = new Accounts(rules);
    account = await accounts.resolve(first);
  });
  afterAll(() => {
    for (const user of [first, second]) system("userdel", user);
    for (const group of [groupA, groupB]) system("groupdel", group);
  });
  beforeEach(() => {
    bench = new Workbench();
    chmodSync(bench.directory, 0o755);
  });
  afterEach(() => bench.clear());

  test("a command has uid, gid and every group of its user, and no new privileges", async () => {
    const launched = await bench.run(["sh", "-c", "id -un; id -gn; id -Gn; grep NoNewPrivs /proc/self/status"], {
      account,
    });

    expect(await launched.exited).toMatchObject({ reason: "exited", code: 0 });
    const [user, group, groups, privileges] = bench.output(launched).trim().split("\n");
    expect([user, group]).toEqual([first, first]);
    expect(groups?.split(" ").sort()).toEqual([first, groupA, groupB].sort());
    expect(privileges).toBe("NoNewPrivs:\t1");
  });

  test("two users at once get each their own", async () => {
    const other = await accounts.resolve(second);
    const both = await Promise.all([
      bench.run(["id", "-Gn"], { account }),
      bench.run(["id", "-Gn"], { account: other }),
    ]);
    await Promise.all(both.map(({ exited }) => exited));

    expect(bench.output(both[0])).toContain(groupA);
    expect(bench.output(both[1])).not.toContain(groupA);
  });

  test("its environment is exactly what was given", async () => {
    const launched = await bench.run(["env", "-0"], { account, environment: { A: "x\ny" } });
    await launched.exited;

    const entries = bench.output(launched).split("\0").filter(Boolean).sort();
    expect(entries).toEqual(["A=x\ny", "PATH=/usr/bin:/bin", `STEWARD_INSTANCE=${launched.instanceId}`]);
  });

  test("it inherits no descriptor, and may not read what Steward keeps of it", async () => {
    const launched = await bench.run(
      ["sh", "-c", `echo here; cat "$0"/*; ls "$0"; exec sleep 1000`, `${bench.directory}/0`],
      {
        account,
      },
    );
    await eventually(() => bench.output(launched, "stderr").split("\n").length > 2);

    expect(bench.output(launched)).toBe("here\n");
    expect(bench.output(launched, "stderr").match(/Permission denied/g)).toHaveLength(2);
  });

  test("a directory that only root may enter is refused, though Steward is root", async () => {
    const secret = join(bench.directory, "secret");
    mkdirSync(secret, { mode: 0o700 });
    const launched = await bench.run(["pwd"], { account, cwd: secret });

    expect(await launched.exited).toMatchObject({
      reason: "spawn_failed",
      message: expect.stringMatching(/directory/),
    });
    expect(bench.output(launched)).toBe("");
  });

  test.each<[string, string, Limits]>([
    ["sh", "/bin/sh", {}],
    ["bash as sh", "/bin/bash", {}],
    ["sh with limits", "/bin/sh", everyLimit],
  ])("nothing that the service's environment names ever runs as root, under %s", async (_, shell, limits) => {
    const log = join(bench.directory, "log");
    const traps = join(bench.directory, "traps");
    mkdirSync(traps);
    const sh = join(bench.directory, "sh");
    symlinkSync(shell, sh);
    writeFileSync(log, "");
    chmodSync(log, 0o666);
    const report = `#!/bin/sh\n/usr/bin/id -u >>${log}\n`;
    for (const name of ["setpriv", "prlimit", "nice", "sh", "env", "mkfifo", "cat", "id", "echo", "cd"]) {
      writeFileSync(join(traps, name), report, { mode: 0o755 });
    }
    const startup = join(traps, "startup");
    writeFileSync(startup, `/usr/bin/id -u >>${log}\n`);
    const library = makeLibrary(traps, log);

    const launched = await bench.run(["env"], {
      account,
      shell: sh,
      limits,
      environment: {
        PATH: traps,
        BASH_ENV: startup,
        ENV: startup,
        ...(library === undefined ? {} : { LD_PRELOAD: library }),
      },
    });
    await launched.exited;

    const uids = new Set(readFileSync(log, "utf8").trim().split("\n"));
    expect(uids).toEqual(new Set([String(account.uid)]));
  });

  test("its limits are set before it has lost the right to, and its processes are counted apart from ours", async () => {
    const launched = await bench.run(
      ["sh", "-c", "nice; ulimit -Hn; ulimit -Hc; for i in 1 2 3 4 5 6; do sleep 1000 & done; wait"],
      { account, limits: { ...everyLimit, processes: 4, nice: -2 } },
    );
    await eventually(() => /fork/i.test(bench.output(launched, "stderr")));

    expect(bench.output(launched)).toBe("-2\n100\n0\n");
    const { own } = await bench.leftovers.find(launched);
    expect(own.length).toBeLessThanOrEqual(4);
  });

  test("its group is stopped, with what left its session", async () => {
    const launched = await bench.run(["sh", "-c", "setsid sleep 1000 & exec sleep 1000"], { account });
    await eventually(() => commandPid(launched));
    await eventually(async () => (await bench.leftovers.find(launched)).own.length === 2);

    const result = await stopInstance(launched, bench.leftovers, { graceMs: 1_000 });

    expect(result).toMatchObject({ stopped: true, exit: { signal: "SIGTERM" } });
    expect((await bench.leftovers.find(launched)).own).toEqual([]);
  });

  test("commands are resolved with the rights of the user", async () => {
    const tools = join(bench.directory, "tools");
    mkdirSync(tools);
    writeFileSync(join(tools, "mine"), "#!/bin/sh\n", { mode: 0o700 });
    writeFileSync(join(tools, "ours"), "#!/bin/sh\n", { mode: 0o755 });
    const query = { cwd: tools, path: `${tools}:/usr/bin`, account };

    expect(await resolveCommand({ ...query, command: "ours" })).toBe(join(tools, "ours"));
    expect(await resolveCommand({ ...query, command: "./ours" })).toBe("./ours");
    expect(await resolveCommand({ ...query, command: "mine", account: undefined })).toBe(join(tools, "mine"));
    await expect(resolveCommand({ ...query, command: "mine" })).rejects.toThrow(
      /service\.spec\.managed\.command.*may not be executed/,
    );
    await expect(resolveCommand({ ...query, command: "ours", cwd: "/no/such", account: undefined })).rejects.toThrow(
      /cwd/,
    );
    await expect(resolveCommand({ ...query, command: "/etc/passwd", account: undefined })).rejects.toThrow(
      /may not be/,
    );
    await expect(resolveCommand({ ...query, command: "nowhere" })).rejects.toThrow(/no program "nowhere"/);
    await expect(resolveCommand({ ...query, command: "ours", cwd: "/root" })).rejects.toThrow(
      /service\.spec\.managed\.cwd/,
    );
  });

  describe("as a service from its registration on", () => {
    let own: OwnPlane;
    let plane: Plane;
    beforeEach(async () => {
      own = await openPlane();
      plane = own.plane;
    });
    afterEach(() => own.clear());

    const output = async (name: string, isWhole: (text: string) => boolean) =>
      eventually(async () => {
        const text = await plane.output(name);
        return isWhole(text) && text;
      });

    test("it is wholly its user: ids, groups, home, mask, privileges, directory, and no descriptor of ours", async () => {
      const home = join(bench.directory, "home");
      mkdirSync(home, { mode: 0o700 });
      chownSync(home, account.uid, account.gid);
      const script = [
        "id -u; id -g; id -Gn | tr ' ' '\\n' | sort | xargs",
        'echo "$HOME $USER $LOGNAME $SHELL"',
        "umask; pwd; grep NoNewPrivs /proc/self/status",
        "grep -E '^Cap(Prm|Eff|Amb)' /proc/self/status | sort -u | tr -s '\\t' ' '",
        "sh -c 'echo /proc/$PPID/fd/*'",
        "echo end; exec sleep 1000",
      ].join("; ");
      await plane.create("s", ["sh", "-c", script], { user: first, cwd: home });

      const lines = (await output("s", (text) => text.endsWith("end\n"))).split("\n");
      const descriptors = lines[10]?.split(" ").map((path) => basename(path));

      expect(lines.slice(0, 10)).toEqual([
        String(account.uid),
        String(account.gid),
        [first, groupA, groupB].sort().join(" "),
        `/home/${first} ${first} ${first} /bin/sh`,
        "0027",
        home,
        "NoNewPrivs:\t1",
        "CapAmb: 0000000000000000",
        "CapEff: 0000000000000000",
        "CapPrm: 0000000000000000",
      ]);
      expect(descriptors?.filter((number) => !inheritedDescriptors.includes(number))).toEqual(["0", "1", "2"]);
    });

    test("it reads neither another service's environment and files nor anything of Steward's", async () => {
      await plane.create("victim", ["sh", "-c", "echo private; exec sleep 1000"], {
        user: first,
        environment: { SECRET: "sesame" },
      });
      const victim = await plane.until("victim", "running");
      const { pid = 0, instanceId = "" } = victim.status;
      const shim = readStat(pid)?.parent ?? 0;
      const secrets = [
        `/proc/${pid}/environ`,
        `/proc/${shim}/environ`,
        `/proc/${process.pid}/environ`,
        `/proc/${process.pid}/fd`,
        `/proc/${pid}/fd`,
        own.stateDirectory.path,
        join(own.stateDirectory.path, "logs"),
        join(own.stateDirectory.path, "logs", victim.uid, "stdout.log"),
        plane.runDirectory(instanceId),
        join(plane.runDirectory(instanceId), "stage"),
      ];
      const tries = [
        'for path; do if [ -d "$path" ]; then ls "$path"; else cat "$path"; fi >/dev/null 2>&1 && echo "read $path"; done',
        `for pid in ${pid} ${shim} ${process.pid}; do kill -0 $pid 2>/dev/null && echo "may signal $pid"; done`,
        "echo end; exec sleep 1000",
      ].join("; ");

      await plane.create("thief", ["sh", "-c", tries, "thief", ...secrets], { user: second });

      expect(await output("thief", (text) => text.endsWith("end\n"))).toBe("end\n");
      // They are all there, for who has the right.
      expect(secrets.filter((path) => !existsSync(path))).toEqual([]);
      expect(readFileSync(secrets[0] ?? "", "utf8")).toContain("SECRET=sesame");
    });
  });

  test("accounts come from the user database, and only names count", async () => {
    expect(account).toMatchObject({ name: first, shell: "/bin/sh", home: `/home/${first}` });
    expect(await lookUpAccount(second)).toMatchObject({ name: second });
    expect(await accounts.own()).toMatchObject({ name: "root", uid: 0 });

    await expect(accounts.resolve("no-such-user")).rejects.toMatchObject({ code: "invalid_argument" });
    await expect(accounts.resolve(String(account.uid))).rejects.toMatchObject({ code: "invalid_argument" });
    await expect(accounts.resolve("root")).rejects.toMatchObject({
      code: "failed_precondition",
      reason: "USER_SWITCH_NOT_ALLOWED",
    });
    await expect(new Accounts({ ownUid: account.uid, allowRoot: false }).resolve(second)).rejects.toMatchObject({
      code: "failed_precondition",
    });
    expect(await new Accounts({ ownUid: 0, allowRoot: true }).resolve("root")).toMatchObject({ uid: 0 });
  });
});

function system(program: string, ...args: string[]): void {
  execFileSync(program, args, { stdio: "ignore" });
}

/** A library that reports who loads it; undefined where no compiler is. */
function makeLibrary(directory: string, log: string): string | undefined {
  if (!existsSync("/usr/bin/cc")) {
    process.stderr.write("No C compiler: LD_PRELOAD is not tested.\n");
    return undefined;
  }
  const source = join(directory, "preload.c");
  writeFileSync(
    source,
    `#include <fcntl.h>\n#include <stdio.h>\n#include <unistd.h>\n__attribute__((constructor)) static void report(void) {
  int log = open("${log}", O_WRONLY | O_APPEND);\n  dprintf(log, "%d\\n", geteuid());\n  close(log);\n}\n`,
  );
  const library = join(directory, "preload.so");
  system("/usr/bin/cc", "-shared", "-fPIC", "-o", library, source);
  return library;
}
