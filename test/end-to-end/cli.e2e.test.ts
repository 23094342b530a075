import { existsSync } from "node:fs";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { parse, parseAllDocuments } from "yaml";
import packageJson from "../../package.json" with { type: "json" };
import { settings } from "../../src/config.ts";
import { eventually } from "../support/eventually.ts";
import { createTestDatabase } from "../support/postgres.ts";
import { freePort, TestSteward } from "./harness.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const program = join(root, "bin/steward");
const whoami = join(root, "examples/whoami.mjs");

interface RunOptions {
  readonly input?: string;
  readonly env?: Readonly<Record<string, string>>;
}

let server: TestSteward;
/** Where the commands are run: nothing of ours is there but what a test writes. */
let directory: string;
const running: { kill(signal: "SIGKILL"): boolean; readonly ended: Promise<unknown> }[] = [];

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "steward-cli-"));
  // A fixed port, so that clients find the server again after a restart.
  server = await TestSteward.start({ proxy: "bundled", flags: { listen: `127.0.0.1:${await freePort()}` } });
});
afterEach(async () => {
  for (const child of running.splice(0)) {
    child.kill("SIGKILL");
    await child.ended;
  }
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
});

/** The environment of a plain host: whatever Node its PATH has is not ours. */
function environment(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  return {
    PATH: "/usr/local/bin:/usr/bin:/bin",
    HOME: directory,
    STEWARD_STATE_DIR: server.stateDir,
    NODE_COMPILE_CACHE: join(directory, "compiled"),
    ...extra,
  };
}

function start(file: string, args: readonly string[], { input = "", env = {} }: RunOptions = {}) {
  const child = execa(file, [...args], {
    cwd: directory,
    env: environment(env),
    extendEnv: false,
    reject: false,
    input,
  });
  running.push({ kill: (signal) => child.kill(signal), ended: child.then(() => undefined) });
  return child;
}

async function run(
  args: readonly string[],
  options: RunOptions = {},
): Promise<{ code: number | undefined; out: string; err: string }> {
  const { exitCode, stdout, stderr } = await start(program, args, options);
  return { code: exitCode, out: stdout, err: stderr };
}

const steward = (...args: readonly string[]) => run(args);

/** A command line of a shell in which `steward` is the program. */
async function shell(script: string): Promise<string> {
  const { stdout } = await start("bash", ["-c", `steward() { ${program} "$@"; }; set -o pipefail; ${script}`]);
  return stdout;
}

/** Starts a command that goes on, and collects what it prints. */
function follow(...args: readonly string[]): { text: () => string; interrupt: () => Promise<number | undefined> } {
  const child = start(program, args);
  let text = "";
  child.stdout.on("data", (data: Buffer) => (text += data.toString()));
  return {
    text: () => text,
    async interrupt() {
      child.kill("SIGINT");
      return (await child).exitCode;
    },
  };
}

async function file(name: string, ...lines: readonly string[]): Promise<string> {
  await writeFile(join(directory, name), lines.join("\n"));
  return name;
}

/** A managed service that says something and stays. */
function talker(name: string, says = `I am ${name}`): string {
  return `  - {name: ${name}, command: [sh, -c, 'echo "${says}"; echo aside >&2; exec sleep 1000'], min_ready: 50ms}`;
}

describe("steward apply", () => {
  test("makes it so from a file, waits, and says what it did", async () => {
    const path = await file(
      "a.yaml",
      "set: demo",
      "services:",
      talker("one"),
      talker("two"),
      `  - {name: web, url: 'http://127.0.0.1:0', command: ['${process.execPath}', '${whoami}']}`,
    );

    const applied = await steward("apply", "-f", path, "--wait");

    expect(applied).toEqual({ code: 0, out: "+ one created\n+ two created\n+ web created", err: "" });
    expect((await steward("get", "services", "-o", "name")).out).toBe("one\ntwo\nweb");
    const states = JSON.parse((await steward("get", "services", "-o", "json")).out) as { status: object }[];
    for (const { status } of states) expect(status).toMatchObject({ state: "SERVICE_STATE_RUNNING", ready: true });
  });

  test("reads standard input, also one that is slow, and says what is as it was", async () => {
    const piped = await shell(
      "(echo 'set: demo'; echo services:; steward version >/dev/null; cat a.yaml | tail -n +3) | steward apply -f -",
    );

    expect(piped).toBe("  one unchanged\n  two unchanged\n  web unchanged");
  });

  test("changes nothing of what it printed itself", async () => {
    expect(await shell("steward get services -o yaml | steward apply -f -")).toBe(
      "  one unchanged\n  two unchanged\n  web unchanged",
    );
    expect(await shell("steward get services one -o json | steward apply -f -")).toBe("  one unchanged");
  });

  test("with --plan tells what it would do, with --prune deletes what is not listed", async () => {
    const path = await file(
      "b.yaml",
      "set: demo",
      "services:",
      talker("one", "changed"),
      "  - {name: new, url: 'http://127.0.0.1:9'}",
      `  - {name: web, url: 'http://127.0.0.1:0', command: ['${process.execPath}', '${whoami}']}`,
    );

    const plan = await steward("apply", "-f", path, "--prune", "--plan");
    const [command, change] = (plan.out.split("\n")[1] ?? "").split(/(?<=command: )/);
    expect(command).toBe("    ~ spec.managed.command: ");
    expect(change?.split(" -> ").map((value) => JSON.parse(value))).toEqual([
      ["sh", "-c", expect.stringContaining("one")],
      ["sh", "-c", expect.stringContaining("changed")],
    ]);
    const outline = plan.out.split("\n").filter((line) => !line.startsWith("    "));
    expect(outline).toEqual([
      "~ one would be updated: spec.managed.command, restarts its process",
      "+ new would be created",
      "  web unchanged",
      "- two would be deleted",
    ]);
    expect((await steward("get", "services", "-o", "name")).out).toBe("one\ntwo\nweb");

    const applied = await steward("apply", "-f", path, "--prune", "--wait");
    expect(applied).toMatchObject({ code: 0, out: outline.join("\n").replaceAll("would be ", "") });
    expect((await steward("get", "services", "-o", "name")).out).toBe("new\none\nweb");
    expect((await steward("logs", "one", "--stream", "stdout", "--tail", "1")).out).toBe("changed");
  });

  test("says which field on which line is wrong, whoever finds out", async () => {
    const unknown = await file("unknown.yaml", "services:", "  - name: bad", "    command: [sleep]", "    port: 1");
    const refused = await file(
      "refused.yaml",
      "services:",
      "  - name: bad",
      "    command: [sleep]",
      "    url: ftp://x",
      "  - name: a b",
    );

    expect(await steward("apply", "-f", unknown)).toEqual({
      code: 2,
      out: "",
      err: "steward: unknown.yaml:4: services[0] (bad): port: there is no such field",
    });
    const { code, err } = await steward("apply", "-f", refused);
    expect(code).toBe(2);
    expect(err).toMatch(/ {2}refused\.yaml:5: services\[1\]\.name: /);
    const [one] = (await readFile(join(directory, "refused.yaml"), "utf8")).split("  - name: a b");
    expect((await run(["apply", "-f", "-"], { input: one ?? "" })).err).toContain(
      "standard input:4: services[0].spec.url: must start with http",
    );
    expect(await steward("apply", "-f", "none.yaml")).toMatchObject({
      code: 2,
      err: expect.stringContaining("cannot read none.yaml"),
    });
  });

  test("that waits for what never gets ready fails, and names it", async () => {
    const manifest = "services: [{name: broken, command: [sh, -c, exit 3], restart_policy: {mode: never}}]";

    const { code, out, err } = await run(["apply", "-f", "-", "--wait"], { input: manifest });

    expect(out).toBe("+ broken created");
    expect(code).toBe(5);
    expect(err).toContain("broken");
    expect(await steward("delete", "broken")).toMatchObject({ code: 0 });
  });
});

describe("steward get and describe", () => {
  test("print tables, JSON, YAML and names", async () => {
    const table = (await steward("get", "services")).out.split("\n");
    expect(table[0]).toMatch(/^NAME +KIND +STATE +READY +PID +RESTARTS +ROUTE +URL +AGE$/);
    expect(table[1]).toMatch(/^new +external +EXTERNAL/);
    expect(table[3]).toMatch(/^web +managed +RUNNING +yes +\d+ +0 +PROGRAMMED +http:\/\/127\.0\.0\.1:\d+ +\d+s$/);
    expect(parse((await steward("get", "services", "web", "-o", "yaml")).out)).toMatchObject({
      name: "web",
      setName: "demo",
    });
    expect(parse((await steward("get", "services", "web", "one", "-o", "yaml")).out)).toMatchObject([
      { name: "web" },
      { name: "one" },
    ]);
    expect((await steward("get", "services", "--filter", "kind = external", "-o", "name")).out).toBe("new");
    expect(await steward("get", "services", "--filter", "kind = ")).toMatchObject({
      code: 2,
      err: expect.stringContaining("filter"),
    });
    expect(await steward("get", "services", "web", "nope")).toMatchObject({ code: 3, out: "" });
  });

  test("print routes in the same formats", async () => {
    expect((await steward("get", "routes")).out).toMatch(
      /^PREFIX +TARGET +STATE.*\n(.*\n)*\/services\/web\/ +http:\S+ +PROGRAMMED/,
    );
    expect((await steward("get", "routes", "-o", "name")).out).toBe("new\nweb");
    expect(JSON.parse((await steward("get", "routes", "-o", "json")).out)).toMatchObject([
      { service: "new" },
      { service: "web", state: "ROUTE_STATE_PROGRAMMED" },
    ]);
    expect(parse((await steward("get", "routes", "-o", "yaml")).out)).toHaveLength(2);
  });

  test("describe shows a service whole, with its last events", async () => {
    const { out } = await steward("describe", "web");

    expect(out).toMatch(/^Name: +web$/m);
    expect(out).toMatch(/^Route: +\/services\/web\/ -> http:\S+ \(PROGRAMMED\)$/m);
    expect(out).toMatch(/^Ready: +yes, for \d+[sm]$/m);
    expect(out).toMatch(/Last events:\n[^]*route_programmed +web/);
    expect(await steward("describe", "nope")).toMatchObject({ code: 3, err: 'steward: no service named "nope"' });
  });
});

describe("steward start, stop, restart and delete", () => {
  const pidOf = async (name: string) =>
    (JSON.parse((await steward("get", "services", name, "-o", "json")).out) as { status: { pid?: number } }).status.pid;

  test("wait until it is so", async () => {
    const before = await pidOf("one");

    expect(await steward("restart", "one", "--wait")).toEqual({ code: 0, out: "one restarted", err: "" });
    expect(await pidOf("one")).not.toBe(before);
    expect(await steward("stop", "one", "web", "--wait")).toMatchObject({
      code: 0,
      out: expect.stringContaining("web stopped"),
    });
    expect(await pidOf("one")).toBeUndefined();
    expect(await steward("start", "one", "web", "--wait")).toMatchObject({
      code: 0,
      out: expect.stringContaining("one started"),
    });
    expect(await pidOf("one")).toBeGreaterThan(1);
  });

  test("tell every failure of several, and do the others", async () => {
    const { code, out, err } = await steward("restart", "nope", "one", "new");

    expect({ code, out }).toEqual({ code: 3, out: "one restarting" });
    expect(err.split("\n")).toEqual([
      'steward: no service named "nope"',
      "steward: new is managed by somebody else; Steward does not run its process",
    ]);
  });

  test("tell apart a conflict, a timeout and what is gone", async () => {
    await run(["apply", "-f", "-"], { input: "services: [{name: slow, command: [sleep, '1000'], min_ready: 100s}]" });

    expect(await steward("start", "slow", "--wait", "--timeout", "100ms")).toMatchObject({ code: 7 });
    expect(await steward("delete", "slow")).toMatchObject({
      code: 5,
      err: expect.stringContaining("stop it first or use force"),
    });
    expect(await steward("delete", "slow", "--force", "--wait")).toEqual({ code: 0, out: "slow deleted", err: "" });
    expect(await steward("delete", "slow")).toMatchObject({ code: 3 });
    expect(await steward("delete", "slow", "--if-exists")).toEqual({ code: 0, out: "slow does not exist", err: "" });
  });
});

describe("steward logs", () => {
  test("shows the last lines of each stream, each where it belongs", async () => {
    await steward("restart", "one", "--wait");

    expect(await steward("logs", "one", "--tail", "1")).toEqual({ code: 0, out: "changed", err: "aside" });
    expect(await steward("logs", "one", "--tail", "1", "--stream", "stderr")).toMatchObject({ out: "", err: "aside" });
    expect(await steward("logs", "nope")).toMatchObject({ code: 3 });
  });

  test("follows what is written until it is interrupted", async () => {
    const logs = follow("logs", "one", "-f", "--stream", "stdout", "--tail", "1");
    await eventually(() => logs.text() === "changed\n");

    await steward("restart", "one", "--wait");
    await eventually(() => logs.text() === "changed\nchanged\n");
    expect(await logs.interrupt()).toBe(0);
  });

  test("passes bytes on that are no text", async () => {
    await run(["apply", "-f", "-", "--wait"], {
      input: `services: [{name: bytes, command: [sh, -c, "printf '\\\\377\\\\000x'; exec sleep 1000"], min_ready: 50ms}]`,
    });

    expect(await shell("steward logs bytes | od -An -tx1")).toBe(" ff 00 78");
    await steward("delete", "bytes", "--force");
  });
});

describe("steward history and rollback", () => {
  test("show what a service was, and make it so again", async () => {
    const label = (team: string, more = "") => ({
      input: `services: [{name: past, url: 'http://127.0.0.1:9', labels: {team: ${team}}${more}}]`,
    });
    await run(["apply", "-f", "-"], label("a"));
    await run(["apply", "-f", "-"], label("b", ", admin: true"));
    const history = async () => (await steward("history", "past")).out.split("\n").slice(1);
    const [now, then] = await history();
    const revision = then?.split(/ +/)[0] ?? "";
    expect(now).toMatch(/^\d+ +\S+Z {2}operator {2}spec\.admin, spec\.labels$/);
    expect(then).toMatch(/^\d+ +\S+Z {2}operator {2}-$/);

    const plan = await steward("rollback", "past", "--to", revision, "--plan");
    expect(plan.out).toBe(
      [
        `past would be rolled back to revision ${revision}`,
        "    ~ spec.admin: true -> false",
        '    ~ spec.labels.team: "b" -> "a"',
      ].join("\n"),
    );
    expect(await history()).toHaveLength(2);

    const done = await steward("rollback", "past", "--to", revision, "--wait");
    expect(done).toEqual({ code: 0, out: plan.out.replace("would be ", ""), err: "" });
    expect(await steward("rollback", "past", "--to", revision)).toMatchObject({
      out: `past is as it was at revision ${revision}`,
    });
    expect(await history()).toHaveLength(3);
    expect(JSON.parse((await steward("history", "past", "-o", "json")).out)).toMatchObject([
      { actor: "operator", paths: ["spec.admin", "spec.labels"], spec: { labels: { team: "a" } } },
      {},
      { revision },
    ]);
    expect(await steward("rollback", "past", "--to", "999999")).toMatchObject({ code: 3 });
    await steward("delete", "past");
  });
});

describe("steward events", () => {
  test("shows the last ones, or those after a place, of all or of one", async () => {
    const all = (await steward("events", "--since", "0")).out.split("\n");
    const ofWeb = (await steward("events", "web", "--tail", "3")).out.split("\n");
    const filtered = (await steward("events", "--filter", "type = service_created", "--tail", "100")).out.split("\n");

    expect(all[0]).toMatch(/^ +1\.0 \S+Z /);
    expect(ofWeb).toHaveLength(3);
    for (const line of ofWeb) expect(line).toMatch(/ web /);
    for (const line of filtered) {
      expect(line).toContain("service_created");
      expect(line).toMatch(/\(by operator from local\)$/);
    }
    for (const line of (await steward("events", "--filter", "type = instance_ready")).out.split("\n"))
      expect(line).toMatch(/\(by steward\)$/);
    expect((await steward("events", "--tail", "0")).out).toBe("");
    const [last] = JSON.parse((await steward("events", "--tail", "1", "-o", "json")).out) as { revision: string }[];
    expect((await steward("events", "--since", String(Number(last?.revision) - 1), "-o", "yaml")).out).toContain(
      `"${last?.revision}"`,
    );
    expect(await steward("events", "--since", "yesterday")).toMatchObject({
      code: 2,
      err: expect.stringContaining("REVISION"),
    });
  });

  test("follows over a crash of the server without gap or duplicate", async () => {
    const since =
      (JSON.parse((await steward("events", "--tail", "1", "-o", "json")).out) as { revision: string }[])[0]?.revision ??
      "";
    const events = follow("events", "-f", "--since", since, "-o", "json");
    const seen = () =>
      events
        .text()
        .split("\n")
        .filter(Boolean)
        .map((line) => JSON.parse(line) as { revision: string; index?: number; type: string; service?: string });
    const startsOfOne = () =>
      seen().filter(({ type, service }) => type === "EVENT_TYPE_INSTANCE_STARTED" && service === "one").length;
    await steward("restart", "one", "--wait");
    await eventually(() => startsOfOne() === 1);

    await server.crash();
    await server.startAgain();
    await steward("restart", "one", "--wait");
    await eventually(() => startsOfOne() === 2);

    const last = seen().at(-1)?.revision ?? "";
    const place = ({ revision, index = 0 }: { revision: string; index?: number }) => `${revision}.${index}`;
    const logged = JSON.parse((await steward("events", "--since", since, "-o", "json")).out) as {
      revision: string;
      index?: number;
    }[];
    expect(seen().map(place)).toEqual(logged.filter(({ revision }) => Number(revision) <= Number(last)).map(place));
    expect(await events.interrupt()).toBe(0);
  });

  test("follows in YAML, one document for each", async () => {
    const events = follow("events", "-f", "--tail", "2", "-o", "yaml");

    await eventually(() => parseAllDocuments(events.text()).length === 2 && events.text().endsWith("\n"));
    expect(await events.interrupt()).toBe(0);
  });
});

describe("tokens", () => {
  test("are issued, listed, rotated and revoked, and the secret alone is on standard output", async () => {
    const issued = await steward(
      "token",
      "issue",
      "--note",
      "ci",
      "--scope",
      "list:services",
      "--scope",
      "read:services",
      "--ttl",
      "1h",
    );
    expect(issued).toMatchObject({
      code: 0,
      out: expect.stringMatching(/^sts_[0-9A-Za-z]{36}$/),
      err: expect.stringContaining("only time"),
    });
    const row = (await steward("token", "list")).out.split("\n").find((line) => line.endsWith(" ci"));
    expect(row).toMatch(/operator +sts_\w{4} +ACTIVE .* list:services read:services +ci$/);
    const [id = ""] = row?.split(" ") ?? [];
    const as = (secret: string, ...args: string[]) => run(args, { env: { STEWARD_TOKEN: secret } });
    expect(await as(issued.out, "get", "services")).toMatchObject({ code: 0 });
    expect(await as(issued.out, "stop", "one")).toMatchObject({
      code: 4,
      err: expect.stringContaining("control:services"),
    });
    expect(await as(issued.out, "token", "issue")).toMatchObject({ code: 4 });

    const rotated = await steward("token", "rotate", id, "--overlap", "0s");
    expect(await as(issued.out, "whoami")).toMatchObject({ code: 4, err: expect.stringContaining("expired") });
    const { out } = await as(rotated.out, "whoami");
    expect(out).toMatch(/^operator list:services read:services\ntoken \S+ expires \S+Z\nserver unix:\//);

    const ids = (await as(server.adminToken, "token", "list", "-o", "name")).out.split("\n");
    expect((await steward("token", "revoke", ids[0] ?? "")).out).toBe(`${ids[0]} revoked`);
    expect(await as(rotated.out, "whoami")).toMatchObject({ code: 4, err: expect.stringContaining("revoked") });
    expect((await steward("token", "list", "--all")).out).toContain("REVOKED");
    expect(await steward("token", "issue", "nope")).toMatchObject({ code: 3, out: "" });
  });

  test("that Steward makes for a process end with it: its token works, and no longer after the next start", async () => {
    await run(["apply", "-f", "-", "--wait"], {
      input:
        "services: [{name: keeper, command: [sh, -c, 'echo $JUPYTERHUB_API_TOKEN; exec sleep 1000'], min_ready: 50ms}]",
    });
    const token = async () => (await steward("logs", "keeper", "--tail", "1")).out;
    const first = await token();
    expect((await run(["whoami"], { env: { STEWARD_TOKEN: first } })).out).toMatch(
      /^keeper \(may only ask who it is\)/,
    );

    await steward("restart", "keeper", "--wait");
    const second = await token();
    expect(await run(["whoami"], { env: { STEWARD_TOKEN: first } })).toMatchObject({ code: 4 });
    expect(await run(["whoami"], { env: { STEWARD_TOKEN: second } })).toMatchObject({ code: 0 });

    await steward("delete", "keeper", "--force", "--wait");
    expect(await run(["whoami"], { env: { STEWARD_TOKEN: second } })).toMatchObject({ code: 4 });
  });

  test("are found: the local server's by itself, else by variable, file and flag", async () => {
    const { connect, grpc } = server.addresses;
    const secret = server.adminToken;
    const elsewhere = { STEWARD_STATE_DIR: directory };
    const tokenFile = await file("token", secret, "");

    expect(await steward("whoami")).toMatchObject({
      code: 0,
      out: expect.stringMatching(/^operator \(may do everything\)/),
    });
    expect(await steward("--protocol", "grpc", "--address", grpc, "whoami")).toMatchObject({ code: 0 });
    expect(
      await run(["whoami"], { env: { ...elsewhere, STEWARD_ADDRESS: connect, STEWARD_TOKEN: secret } }),
    ).toMatchObject({ code: 0 });
    expect(
      await run(["--token-file", tokenFile, "whoami"], { env: { ...elsewhere, STEWARD_ADDRESS: connect } }),
    ).toMatchObject({ code: 0 });
    expect(await run(["whoami"], { env: { ...elsewhere, STEWARD_ADDRESS: connect } })).toMatchObject({
      code: 4,
      err: expect.stringContaining("STEWARD_TOKEN"),
    });
    expect(await run(["--token-file", "none", "whoami"], {})).toMatchObject({
      code: 2,
      err: expect.stringContaining("none"),
    });
  });

  test("are in no log of the server and in no event", async () => {
    const issued = await steward("token", "issue", "--note", "walk");
    await run(["apply", "-f", "-"], {
      input: "services: [{name: walk, url: 'http://127.0.0.1:9', api_token: walked-secret-token}]",
    });
    await run(["apply", "-f", "-"], { input: "services: [{name: walk, url: 'http://127.0.0.1:9', api_token: short}]" });
    await run(["whoami"], { env: { STEWARD_TOKEN: "sts_wrong-secret-of-a-client" } });

    const shown = await Promise.all([
      steward("events", "--since", "0", "-o", "json"),
      steward("get", "services", "-o", "json"),
      steward("token", "list", "--all", "-o", "json"),
      steward("describe", "walk"),
    ]);
    const told = [server.log, ...shown.map(({ out }) => out)].join("\n");

    expect(told).toContain("walk");
    for (const secret of [issued.out, "walked-secret-token", server.adminToken, "wrong-secret-of-a-client"])
      expect(told).not.toContain(secret);
    await steward("delete", "walk");
  });
});

describe("the program", () => {
  test("says who it is, how it is used and whether the server serves", async () => {
    expect(await steward("version")).toMatchObject({ code: 0, out: `steward ${packageJson.version}` });
    expect(await steward("--version")).toMatchObject({ code: 0, out: packageJson.version });
    expect(await steward("health")).toEqual({ code: 0, out: "serving", err: "" });
    expect(
      await run(["health"], {
        env: { STEWARD_STATE_DIR: directory, STEWARD_ADDRESS: server.addresses.connect },
      }),
    ).toMatchObject({ code: 0 });
    const { out } = await steward("--help");
    for (const command of [
      "serve",
      "apply",
      "get",
      "describe",
      "delete",
      "start",
      "stop",
      "restart",
      "logs",
      "events",
      "token",
      "whoami",
      "health",
      "version",
      "completion",
    ])
      expect(out).toMatch(new RegExp(`^ {2}${command}\\b`, "m"));
    expect(out).toContain("Exit codes: 0 done");
  });

  test("takes the Node that it brings, and says which it needs where there is none", async () => {
    const bare = join(directory, "bare");
    await cp(program, join(bare, "bin/steward"), { recursive: true });
    await writeFile(join(directory, "node"), '#!/bin/sh\n[ "$1" = --version ] && echo v20.0.0\n', {
      mode: 0o755,
    });

    const old = await start(join(bare, "bin/steward"), ["version"], { env: { PATH: `${directory}:/usr/bin:/bin` } });
    const brought = await run(["version"], { env: { PATH: `${directory}:/usr/bin:/bin` } });

    expect(old).toMatchObject({
      exitCode: 2,
      stdout: "",
      stderr: expect.stringMatching(/^steward: needs Node 22\.18.*v20\.0\.0$/),
    });
    expect(brought).toMatchObject({ code: 0, err: "" });
  });

  test("fails with the exit code of its failure, and says so on standard error alone", async () => {
    expect(await steward("frob")).toMatchObject({
      code: 2,
      out: "",
      err: expect.stringContaining("unknown command 'frob'"),
    });
    expect(await steward("--address", "127.0.0.1:1", "whoami")).toMatchObject({
      code: 6,
      out: "",
      err: expect.stringContaining("Tried http://127.0.0.1:1"),
    });
  });

  test("uses colours on a terminal only, and not there where NO_COLOR is set", async () => {
    const onTerminal = async (env: Record<string, string>) =>
      String((await start("script", ["-qec", `${program} get services`, "/dev/null"], { env })).stdout);

    expect(await onTerminal({ TERM: "xterm" })).toContain("\u001b[32mRUNNING\u001b[0m");
    expect(await onTerminal({ TERM: "xterm", NO_COLOR: "1" })).not.toContain("\u001b");
    expect((await steward("get", "services")).out).not.toContain("\u001b");
  });

  test("ends quietly when its reader leaves", async () => {
    expect(await shell('steward events --since 0 | head -1 | wc -l; echo "${PIPESTATUS[0]}"')).toBe("1\n0");
    // One that follows sees that its reader has left when there is something to tell.
    const leave = "head -1 | wc -l; exec <&-; steward reset one >&2";
    expect(await shell(`steward events -f --since 0 -o json 2>&1 | { ${leave}; }; echo "\${PIPESTATUS[0]}"`)).toBe(
      "1\n0",
    );
  });
});

describe("completion", () => {
  const complete = (...words: string[]) =>
    shell(
      `source <(steward completion bash); COMP_WORDS=(steward ${words.map((word) => `'${word}'`).join(" ")}); COMP_CWORD=${words.length}; _steward; printf '%s\\n' "\${COMPREPLY[@]}"`,
    );

  test("in bash offers commands, options and the names of services", async () => {
    expect(await complete("re")).toBe("restart\nreset");
    expect(await complete("get", "")).toBe("services\nroutes");
    expect(await complete("get", "services", "")).toBe("--output\n--filter\n--order-by\nnew\none\nweb");
    expect(await complete("stop", "--wait", "o")).toBe("one");
    expect(await complete("token", "issue", "--s")).toBe("--scope");
    expect((await complete("serve", "--")).split("\n")).toEqual(settings.map(({ flag }) => `--${flag}`));
  });

  test("scripts are accepted by their shells, as far as there are these", async () => {
    for (const name of ["bash", "zsh", "fish"]) {
      const { code, out } = await steward("completion", name);
      expect(code).toBe(0);
      if (["/usr/bin", "/bin"].some((place) => existsSync(join(place, name))))
        expect(await start(name, ["-n", "-c", out])).toMatchObject({ exitCode: 0, stderr: "" });
    }
    const { out: fish } = await steward("completion", "fish");
    expect(fish).toContain(
      "complete -c steward -f -n '__fish_seen_subcommand_from token; and __fish_seen_subcommand_from issue'",
    );
    expect((await steward("completion", "zsh")).out).toMatch(/^#compdef steward\n/);
  });
});

describe("steward serve", () => {
  test("--help lists every setting with its flag, variable and default", async () => {
    const help = (await steward("serve", "--help")).out.replaceAll(/\s+/g, " ");

    for (const { flag, variable, fallback } of settings) {
      expect(help).toContain(` --${flag} `);
      expect(help).toContain(fallback === undefined ? `(${variable})` : `(${variable}; default ${fallback})`);
    }
  });

  test("tells everything that is wrong with its settings at once", async () => {
    const { code, out, err } = await run(["serve", "--node", "a b"], {
      env: { STEWARD_LISTEN: "7700", STEWARD_DRAIN: "-1" },
    });

    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(err.split("\n")).toEqual([
      "steward: the configuration is wrong:",
      expect.stringContaining("STEWARD_LISTEN is HOST:PORT"),
      expect.stringContaining("--node takes 1 to 63 letters"),
      expect.stringContaining("STEWARD_DRAIN is a number from 0 to 3600"),
    ]);
  });

  test("on a state directory that another has is refused and names both", async () => {
    const { pid } = JSON.parse(await readFile(join(server.stateDir, "server.json"), "utf8")) as { pid: number };
    const database = await createTestDatabase();
    const ports = ["--listen", "127.0.0.1:0", "--grpc-listen", "off", "--proxy-listen", "off"];

    const embedded = await steward("serve", ...ports);
    const external = await steward("serve", ...ports, "--database-url", database.url);
    await database.drop();

    for (const refused of [embedded, external])
      expect(refused).toEqual({
        code: 1,
        out: "",
        err: `steward: ${server.stateDir} is in use by another process (pid ${pid})`,
      });
    expect(await steward("health")).toMatchObject({ code: 0 });
  });
});
