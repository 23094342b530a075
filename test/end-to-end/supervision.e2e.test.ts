import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EventType } from "../../gen/steward/v1/event_pb.ts";
import { DependencyCondition, RestartMode, ServiceState } from "../../gen/steward/v1/service_pb.ts";
import { CauseKind, WaitCondition } from "../../gen/steward/v1/supervisor_pb.ts";
import { eventually } from "../support/eventually.ts";
import { external, managed } from "./bad-requests.ts";
import { TestSteward } from "./harness.ts";
import { refusalOf } from "./refusal.ts";
import { type Clients, clientsOf, transports } from "./transports.ts";

let steward: TestSteward;

beforeAll(async () => {
  steward = await TestSteward.start();
});

afterAll(async () => {
  await steward?.[Symbol.asyncDispose]();
});

describe.each(transports.map((name, index) => ({ name, key: `s${index}` })))("over $name", ({ name, key }) => {
  let admin: Clients;

  beforeAll(() => {
    admin = clientsOf(name, steward.addresses, steward.adminToken);
  });

  async function register(
    service: string,
    command: string[],
    more: Exclude<Parameters<typeof managed>[0], { $typeName: string }> = {},
  ) {
    const spec = managed({ command, minReady: { nanos: 1 }, ...more });
    return admin.registry.create({ serviceId: service, service: { spec } });
  }

  async function status(service: string) {
    const answer = await admin.registry.get({ name: service });
    if (answer.service?.status === undefined) throw new Error("it has no status");
    return answer.service.status;
  }

  test("a signal reaches the process group, is recorded, and what follows is as after any exit", async () => {
    const service = `${key}-signal`;
    await register(service, ["sh", "-c", "trap 'echo heard; exit 5' USR1; while :; do sleep 0.05; done"], {
      restartPolicy: { mode: RestartMode.NEVER },
    });
    await admin.supervisor.wait({ name: service, condition: WaitCondition.READY });

    const { instanceId, revision } = await admin.supervisor.signal({ name: service, signal: "SIGUSR1" });

    await admin.supervisor.wait({ name: service, condition: WaitCondition.ENDED });
    const { events } = await admin.supervisor.listEvents({ filter: `service = ${service}`, pageSize: 100 });
    const sent = events.find(({ type }) => type === EventType.INSTANCE_SIGNALLED);
    expect(sent).toMatchObject({ revision, payload: { value: { instanceId, signal: "SIGUSR1" } } });
    expect(sent?.message).toContain("operator");
    expect(await status(service)).toMatchObject({
      state: ServiceState.FAILED,
      lastExit: { code: 5, requested: false },
    });
  });

  test("a signal to what does not run, to somebody else's service, or that is none is refused", async () => {
    const [stopped, elsewhere] = [`${key}-ended`, `${key}-elsewhere`];
    await register(stopped, ["sh", "-c", "exit 0"], { restartPolicy: { mode: RestartMode.NEVER } });
    await admin.registry.create({ serviceId: elsewhere, service: { spec: external() } });
    await admin.supervisor.wait({ name: stopped, condition: WaitCondition.ENDED });

    const signal = (service: string, word: string) => admin.supervisor.signal({ name: service, signal: word });
    expect(await refusalOf(signal(stopped, "SIGHUP"))).toMatchObject({
      code: "FailedPrecondition",
      reason: "SERVICE_NOT_RUNNING",
    });
    expect(await refusalOf(signal(elsewhere, "SIGHUP"))).toMatchObject({ reason: "SERVICE_NOT_MANAGED" });
    expect(await refusalOf(signal(stopped, "HUP"))).toMatchObject({ code: "InvalidArgument", fields: ["signal"] });
    expect(await refusalOf(signal(`${key}-nobody`, "SIGHUP"))).toMatchObject({ code: "NotFound" });
  });

  test("a reset starts what has given up, with a clean slate", async () => {
    const service = `${key}-reset`;
    await register(service, ["sh", "-c", "exit 1"], { restartPolicy: { mode: RestartMode.NEVER } });
    await admin.supervisor.wait({ name: service, condition: WaitCondition.ENDED });
    const before = await status(service);

    const { service: reset } = await admin.supervisor.reset({ name: service });

    expect(reset).toMatchObject({ resets: 1n, generation: 1n });
    const after = await eventually(async () => {
      const now = await status(service);
      return now.instanceId !== before.instanceId && now.state === ServiceState.FAILED ? now : undefined;
    });
    expect(after.restarts).toBe(0);
    expect(await refusalOf(admin.supervisor.reset({ name: service, etag: "other" }))).toMatchObject({
      reason: "ETAG_MISMATCH",
    });
  });

  test("an exit code that says so is not restarted, whatever the mode", async () => {
    const service = `${key}-final`;
    await register(service, ["sh", "-c", "exit 78"], { restartPolicy: { noRestartExitCodes: [78] } });

    await admin.supervisor.wait({ name: service, condition: WaitCondition.ENDED });

    expect(await status(service)).toMatchObject({ state: ServiceState.FAILED, reason: "NO_RESTART_EXIT_CODE" });
  });

  test("an explanation leads from the wish through the dependency to its last exit and its last words", async () => {
    const [db, api] = [`${key}-db`, `${key}-api`];
    await register(db, ["sh", "-c", "echo no space left >&2; exit 3"], {
      minReady: { seconds: 60n },
      restartPolicy: { mode: RestartMode.NEVER },
    });
    await register(api, ["sleep", "1000"], {
      dependsOn: [{ service: db, condition: DependencyCondition.READY }],
    });
    await eventually(async () => (await status(db)).state === ServiceState.FAILED);
    await eventually(async () => (await status(api)).reason === "WAITING_FOR_DEPENDENCY");

    const ofApi = await admin.supervisor.explain({ name: api });
    const ofDb = await admin.supervisor.explain({ name: db });

    expect(ofApi.well).toBe(false);
    expect(ofApi.causes.map(({ kind, service }) => [kind, service])).toEqual([
      [CauseKind.WISH, api],
      [CauseKind.STATE, api],
      [CauseKind.DEPENDENCY, api],
      [CauseKind.STATE, db],
      [CauseKind.POLICY, db],
      [CauseKind.LAST_EXIT, db],
    ]);
    expect(ofApi.summary).toContain(`waits for ${db}`);
    expect(ofApi.summary).toContain("exited with code 3");
    expect(ofDb.lastLines).toEqual(["no space left"]);
    expect(await refusalOf(admin.supervisor.explain({ name: `${key}-nobody` }))).toMatchObject({ code: "NotFound" });
  });

  test("what is well needs no explanation", async () => {
    const service = `${key}-well`;
    await register(service, ["sleep", "1000"]);
    await admin.supervisor.wait({ name: service, condition: WaitCondition.READY });

    expect(await admin.supervisor.explain({ name: service })).toMatchObject({
      well: true,
      causes: [{ kind: CauseKind.WISH }],
    });
  });

  test("stop all wishes those stopped that match, once", async () => {
    const labels = { group: key };
    for (const index of [0, 1]) {
      const spec = managed({ command: ["sleep", "1000"] }, { labels });
      await admin.registry.create({ serviceId: `${key}-all-${index}`, service: { spec } });
    }
    const filter = `labels.group = ${key}`;

    const checked = await admin.supervisor.stopAll({ filter, validateOnly: true });
    const stopped = await admin.supervisor.stopAll({ filter });
    const again = await admin.supervisor.stopAll({ filter });

    expect(checked).toMatchObject({ names: [`${key}-all-0`, `${key}-all-1`], revision: 0n });
    expect(stopped.names).toEqual(checked.names);
    expect(again.names).toEqual([]);
    for (const service of stopped.names) {
      await admin.supervisor.wait({ name: service, condition: WaitCondition.STOPPED, minRevision: stopped.revision });
    }
    expect(await refusalOf(admin.supervisor.stopAll({ filter: "group ==" }))).toMatchObject({
      reason: "FILTER_INVALID",
    });
  });

  test("none of it is for who may not control services", async () => {
    const service = `${key}-guarded`;
    await register(service, ["sleep", "1000"]);
    const { secret } = await admin.registry.issueToken({ service });
    const { supervisor } = clientsOf(name, steward.addresses, secret);

    for (const call of [
      supervisor.signal({ name: service, signal: "SIGTERM" }),
      supervisor.reset({ name: service }),
      supervisor.stopAll({}),
      supervisor.explain({ name: service }),
    ]) {
      expect(await refusalOf(call)).toMatchObject({ code: "PermissionDenied", reason: "SCOPE_MISSING" });
    }
  });
});
