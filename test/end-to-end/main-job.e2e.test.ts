import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { CommandLine } from "./command-line.ts";
import { TestSteward } from "./harness.ts";

interface ServiceJson {
  readonly name: string;
  readonly status: {
    readonly state: string;
    readonly ready?: boolean;
    readonly pid?: number;
    readonly restarts?: number;
    readonly url?: string;
  };
}

describe("the main job, as a person does it", () => {
  let server: TestSteward;
  let steward: CommandLine;

  beforeAll(async () => {
    server = await TestSteward.start({ proxy: "bundled", keepServices: true });
    steward = new CommandLine(server);
  });
  afterAll(() => server[Symbol.asyncDispose]());

  const get = (name: string) => steward.json<ServiceJson>("get", "services", name);
  const page = (path: string) => fetch(`${server.addresses.proxy}${path}`);

  test("applies the examples, routes them and shows them", async () => {
    const applied = await steward.run("apply", "-f", "examples/services.yaml", "--wait");

    expect(applied.stderr).toContain("32 or more are recommended");
    expect(applied).toMatchObject({ exitCode: 0 });
    expect(applied.stdout).toContain("+ whoami created");
    const body = await (await page("/services/whoami/x")).text();
    expect(body).toContain("I am whoami");
    expect((await steward.run("get", "services")).stdout).toMatch(/my-service +external/);
    expect((await steward.run("get", "routes")).stdout).toMatch(/\/services\/whoami\/ .* PROGRAMMED/);
  });

  test("plans nothing for what is as it should be", async () => {
    const plan = await steward.run("apply", "-f", "examples/services.yaml", "--plan");

    expect(plan.stdout.split("\n").every((line) => line.endsWith("unchanged"))).toBe(true);
  });

  test("gives a worker a token that lets it use the API", async () => {
    await eventually(async () => (await steward.run("logs", "cull-idle")).stdout.includes("I am cull-idle, an admin"));
  });

  test("restarts a service whose process is killed, and says so", async () => {
    const before = await get("whoami");
    process.kill(Number(before.status.pid), "SIGKILL");

    await eventually(async () => {
      const { status } = await get("whoami");
      return status.pid !== before.status.pid && status.ready === true;
    });

    const events = (await steward.run("events", "whoami")).stdout;
    expect(events).toMatch(/instance_exited .*SIGKILL[^]*restart_scheduled[^]*instance_ready/);
    expect((await page("/services/whoami/")).status).toBe(200);
  });

  test("keeps everything over a restart of the server, without touching what runs", async () => {
    const before = await get("whoami");
    await server.stop();
    await server.startAgain();

    const after = await get("whoami");

    expect(after.status).toMatchObject({ pid: before.status.pid, ready: true, url: before.status.url });
    await eventually(async () => (await page("/services/whoami/")).status === 200);
  });

  test("takes over what runs and collects what ended after the server was killed", async () => {
    const [whoami, worker] = [await get("whoami"), await get("cull-idle")];
    await server.crash();
    process.kill(Number(worker.status.pid), "SIGKILL");
    await server.startAgain();

    expect((await get("whoami")).status.pid).toBe(whoami.status.pid);
    await eventually(async () => (await get("cull-idle")).status.ready === true);
    const events = (await steward.run("events", "--tail", "60")).stdout;
    expect(events).toMatch(/instance_adopted +whoami/);
    expect(events).toMatch(/instance_exited +cull-idle .*SIGKILL/);
  });

  test("stops and starts on request", async () => {
    expect(await steward.run("stop", "whoami", "--wait")).toMatchObject({ exitCode: 0, stdout: "whoami stopped" });
    expect((await page("/services/whoami/")).status).toBe(404);
    expect((await get("whoami")).status.state).toBe("SERVICE_STATE_STOPPED");

    expect(await steward.run("start", "whoami", "--wait")).toMatchObject({ exitCode: 0 });
    expect((await page("/services/whoami/")).status).toBe(200);
  });

  test("deletes a service, its process and its route", async () => {
    const { pid } = (await get("whoami")).status;
    expect(await steward.run("delete", "whoami")).toMatchObject({ exitCode: 5 });

    expect(await steward.run("delete", "whoami", "--force", "--wait")).toMatchObject({ exitCode: 0 });

    expect(await steward.run("get", "services", "whoami")).toMatchObject({ exitCode: 3 });
    expect((await page("/services/whoami/")).status).toBe(404);
    expect(() => process.kill(Number(pid), 0)).toThrow("ESRCH");
  });

  test("issues, rotates and revokes tokens", async () => {
    const { stdout: secret } = await steward.run("token", "issue", "--note", "test");
    const [token] = (await steward.json<{ id: string; note?: string }[]>("token", "list")).filter(
      ({ note }) => note === "test",
    );
    expect(await steward.run("--token", secret, "whoami")).toMatchObject({ exitCode: 0 });

    const { stdout: successor } = await steward.run("token", "rotate", token?.id ?? "", "--overlap", "0s");

    expect(await steward.run("--token", secret, "whoami")).toMatchObject({ exitCode: 4 });
    expect(await steward.run("--token", successor, "whoami")).toMatchObject({ exitCode: 0 });
    const ids = (await steward.json<{ id: string; note?: string }[]>("token", "list"))
      .filter(({ note }) => note === "test")
      .map(({ id }) => id);
    await steward.run("token", "revoke", ...ids);
    expect(await steward.run("--token", successor, "whoami")).toMatchObject({ exitCode: 4 });
  });

  test.each([
    ["a name with a space", { name: "a b", command: ["true"] }, "name"],
    ["a path as a name", { name: "a/b", command: ["true"] }, "name"],
    ["a name that differs only by case", { name: "CULL-idle", command: ["true"] }, "CULL-idle"],
    ["an unknown field", { name: "x", command: ["true"], port: 1 }, "port"],
    ["a url of another scheme", { name: "x", command: ["true"], url: "ftp://h:1" }, "url"],
    ["a url with a user", { name: "x", command: ["true"], url: "http://u:p@h:1" }, "url"],
    ["a link-local url", { name: "x", url: "http://169.254.169.254:80" }, "url"],
    ["a command that is not there", { name: "x", command: ["no-such-program"] }, "command"],
    ["a directory that is not there", { name: "x", command: ["true"], cwd: "/no/such/place" }, "cwd"],
    ["an unknown user", { name: "x", command: ["true"], user: "no-such-user" }, "user"],
    [
      "a variable that overrides identity",
      { name: "x", command: ["true"], environment: { JUPYTERHUB_SERVICE_NAME: "y" } },
      "environment",
    ],
    ["a short token", { name: "x", command: ["true"], api_token: "short" }, "api_token"],
    ["a client id of another form", { name: "x", command: ["true"], oauth_client_id: "x" }, "oauth_client_id"],
  ])("refuses %s, names the field and leaves nothing behind", async (_, service, field) => {
    const before = await steward.json<object[]>("get", "services");

    const refused = await steward.runWith(JSON.stringify({ services: [service] }), "apply", "-f", "-");

    expect(refused.exitCode).toBeGreaterThan(0);
    expect(refused.stderr).toContain(field);
    expect((await steward.json<object[]>("get", "services")).length).toBe(before.length);
  });
});
