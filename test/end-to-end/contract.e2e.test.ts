import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EventType } from "../../gen/steward/v1/event_pb.ts";
import { ServiceState, Wish } from "../../gen/steward/v1/service_pb.ts";
import {
  ApplyAction,
  PrincipalKind,
  ServiceChangeType,
  type WatchServicesResponse,
} from "../../gen/steward/v1/service_registry_pb.ts";
import { LogStream, WaitCondition } from "../../gen/steward/v1/supervisor_pb.ts";
import { TokenState } from "../../gen/steward/v1/token_pb.ts";
import { eventually } from "../support/eventually.ts";
import { type BadRequestScene, badRequests, external, managed } from "./bad-requests.ts";
import { TestSteward } from "./harness.ts";
import { readRefusal, refusalOf } from "./refusal.ts";
import { type Clients, clientsOf, transports } from "./transports.ts";

let steward: TestSteward;

beforeAll(async () => {
  steward = await TestSteward.start();
});

afterAll(async () => {
  await steward?.[Symbol.asyncDispose]();
});

describe.each(transports.map((name, index) => ({ name, key: `t${index}` })))("over $name", ({ name, key }) => {
  let admin: Clients;
  const as = (token: string | undefined) => clientsOf(name, steward.addresses, token);

  beforeAll(() => {
    admin = as(steward.adminToken);
  });

  describe("a bad request is refused with its reason and leaves nothing behind:", () => {
    let scene: BadRequestScene;

    beforeAll(async () => {
      scene = await setScene(key, admin, as);
    });

    test.each(badRequests)("$title", async ({ call, code, reason, field }) => {
      const before = await everything(admin);

      const refusal = await refusalOf(call(scene));

      expect(refusal).toMatchObject({ code, reason });
      if (field !== undefined)
        expect(refusal.fields).toContainEqual(expect.stringMatching(new RegExp(`^${escaped(field)}`)));
      expect(refusal.requestId).not.toBe("");
      expect(JSON.stringify(refusal)).not.toContain(scene.takenApiToken);
      expect(await everything(admin)).toEqual(before);
    });
  });

  test("a managed service is registered, runs, is changed, stopped, started and deleted", async () => {
    const service = `${key}-life`;
    const created = await admin.registry.create({
      serviceId: service,
      service: { spec: managed({ command: ["sleep", "1000"], minReady: { nanos: 1 } }) },
    });
    expect(created.service).toMatchObject({
      name: service,
      wish: Wish.RUNNING,
      generation: 1n,
      revision: created.revision,
    });

    const ready = await until(admin, service, WaitCondition.READY, created.revision);
    expect(ready?.status).toMatchObject({ state: ServiceState.RUNNING, ready: true, observedGeneration: 1n });
    expect(isAlive(ready?.status?.pid)).toBe(true);
    expect((await admin.registry.get({ name: service })).service).toEqual(ready);

    const changed = await admin.registry.update({
      service: { name: service, etag: ready?.etag ?? "", spec: managed({ command: ["sleep", "2000"] }) },
      updateMask: { paths: ["spec.managed.command"] },
    });
    expect(changed.service?.generation).toBe(2n);
    const replaced = await until(admin, service, WaitCondition.READY, changed.revision);
    expect(replaced?.status?.pid).not.toBe(ready?.status?.pid);
    expect(isAlive(ready?.status?.pid)).toBe(false);

    const stopped = await admin.supervisor.stop({ name: service });
    const rests = await until(admin, service, WaitCondition.STOPPED, stopped.revision);
    expect(rests?.status).toMatchObject({ state: ServiceState.STOPPED, ready: false, pid: 0 });
    expect(isAlive(replaced?.status?.pid)).toBe(false);

    const started = await admin.supervisor.start({ name: service });
    await until(admin, service, WaitCondition.READY, started.revision);
    const restarted = await admin.supervisor.restart({ name: service });
    const again = await until(admin, service, WaitCondition.READY, restarted.revision);
    const { instances } = await admin.supervisor.listInstances({ service });
    expect(instances.map(({ generation }) => generation)).toEqual([4n, 3n, 2n, 1n]);
    expect(instances[0]).toMatchObject({ id: again?.status?.instanceId, pid: again?.status?.pid });

    expect(await refusalOf(admin.registry.delete({ name: service }))).toMatchObject({ reason: "SERVICE_RUNNING" });
    const deleted = await admin.registry.delete({ name: service, force: true });
    expect(deleted.service?.wish).toBe(Wish.DELETED);
    await until(admin, service, WaitCondition.DELETED, deleted.revision);
    expect(await refusalOf(admin.registry.get({ name: service }))).toMatchObject({ reason: "SERVICE_NOT_FOUND" });
    expect(isAlive(again?.status?.pid)).toBe(false);
  });

  test("a change that does not touch the process leaves it running", async () => {
    const service = `${key}-calm`;
    const pid = (await createReady(admin, service)).status?.pid;

    const changed = await admin.registry.update({
      service: { name: service, spec: { labels: { team: "data" }, display: false } },
      updateMask: { paths: ["spec.labels", "spec.display"] },
    });

    expect(changed.service?.spec).toMatchObject({ labels: { team: "data" }, display: false });
    expect(changed.service).toMatchObject({ generation: 1n, status: { pid } });
    await remove(admin, service);
  });

  test("who was not looking when a service failed is told why, at once", async () => {
    const service = `${key}-fails`;
    const spec = managed({ command: ["false"], restartPolicy: { mode: 3 } });
    const { revision } = await admin.registry.create({ serviceId: service, service: { spec } });
    const ended = await until(admin, service, WaitCondition.ENDED, revision);

    const refusal = await refusalOf(admin.supervisor.wait({ name: service, condition: WaitCondition.READY }));

    expect(ended?.status).toMatchObject({ state: ServiceState.FAILED, lastExit: { code: 1 } });
    expect(refusal).toMatchObject({
      code: "FailedPrecondition",
      reason: "WAIT_HOPELESS",
      metadata: { state: "failed" },
    });
    await remove(admin, service);
  });

  test("a service on its way out cannot be changed, nor its name be given away", async () => {
    const service = `${key}-leaving`;
    const spec = managed({
      command: ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"],
      stopGrace: { seconds: 2n },
    });
    const { revision } = await admin.registry.create({ serviceId: service, service: { spec } });
    await until(admin, service, WaitCondition.READY, revision);
    const deleted = await admin.registry.delete({ name: service, force: true });

    const refusals = await Promise.all([
      refusalOf(admin.registry.create({ serviceId: service, service: { spec: external() } })),
      refusalOf(admin.registry.update({ service: { name: service, spec: { admin: true } } })),
      refusalOf(admin.supervisor.start({ name: service })),
      refusalOf(admin.supervisor.wait({ name: service, condition: WaitCondition.READY })),
    ]);

    expect(refusals.map(({ code, reason }) => [code, reason])).toEqual(
      Array(4).fill(["FailedPrecondition", "SERVICE_DELETING"]),
    );
    await until(admin, service, WaitCondition.DELETED, deleted.revision);
  });

  test("the same request sent again is answered the same and done once", async () => {
    const create = { serviceId: `${key}-once`, service: { spec: external() }, requestId: randomUUID() };
    const issue = { service: `${key}-once`, requestId: randomUUID() };

    const [first, again] = [await admin.registry.create(create), await admin.registry.create(create)];
    const tokens = [await admin.registry.issueToken(issue), await admin.registry.issueToken(issue)];

    expect(again).toEqual(first);
    expect(tokens[1]).toEqual(tokens[0]);
    expect((await admin.registry.listTokens({ service: `${key}-once` })).tokens).toHaveLength(1);
    await remove(admin, `${key}-once`);
  });

  test("the same request sent twice at the same time is done once", async () => {
    const create = { serviceId: `${key}-twice`, service: { spec: external() }, requestId: randomUUID() };

    const [first, second] = await Promise.all([admin.registry.create(create), admin.registry.create(create)]);

    expect(second).toEqual(first);
    await remove(admin, `${key}-twice`);
  });

  test("validate_only tells what would be and changes nothing, whatever the change", async () => {
    const [service, running] = [`${key}-kept`, `${key}-kept-running`];
    const { revision: first } = await admin.registry.create({ serviceId: service, service: { spec: external() } });
    await admin.registry.update({ service: { name: service, spec: { labels: { x: "y" } } } });
    const { status } = await createReady(admin, running);
    const tokenId = (await admin.registry.issueToken({ service })).token?.id ?? "";
    const before = await everything(admin);
    const validateOnly = true;

    const created = await admin.registry.create({
      serviceId: `${key}-would`,
      service: { spec: external() },
      validateOnly,
    });
    const changed = await admin.registry.update({ service: { name: service, spec: { admin: true } }, validateOnly });
    const deleted = await admin.registry.delete({ name: service, validateOnly });
    const issued = await admin.registry.issueToken({ service, validateOnly });
    const applied = await admin.registry.apply({ services: [{ name: service, spec: external() }], validateOnly });
    const rolledBack = await admin.registry.rollback({ name: service, revision: first, validateOnly });
    const rotated = await admin.registry.rotateToken({ tokenId, validateOnly });
    const others = await Promise.all([
      admin.registry.revokeToken({ tokenId, validateOnly }),
      admin.supervisor.stop({ name: running, validateOnly }),
      admin.supervisor.start({ name: running, validateOnly }),
      admin.supervisor.restart({ name: running, validateOnly }),
      admin.supervisor.reset({ name: running, validateOnly }),
      admin.supervisor.stopAll({ filter: `name = ${running}`, validateOnly }),
      admin.supervisor.reconcileRoutes({ reassert: true, validateOnly }),
    ]);
    const signalled = await admin.supervisor.signal({ name: running, signal: "SIGKILL", validateOnly });

    const answers = [created, changed, deleted, issued, applied, rolledBack, rotated, signalled, ...others];
    expect(answers.map(({ revision }) => revision)).toEqual(answers.map(() => 0n));
    expect(created.service).toMatchObject({ name: `${key}-would`, uid: "", etag: "" });
    expect(rolledBack.service?.spec?.labels).toEqual({});
    expect([rotated.secret, rotated.token?.id]).toEqual(["", ""]);
    expect(signalled.instanceId).toBe(status?.instanceId);
    expect(isAlive(status?.pid)).toBe(true);
    expect(changed.service?.spec?.admin).toBe(true);
    expect(deleted.service?.wish).toBe(Wish.DELETED);
    expect([issued.secret, issued.token?.id]).toEqual(["", ""]);
    expect(await everything(admin)).toEqual(before);
    await remove(admin, service);
    await remove(admin, running);
  });

  test("who had the routes compared is in the log, once for a request that is sent again", async () => {
    const requestId = randomUUID();

    const first = await admin.supervisor.reconcileRoutes({ requestId });
    const again = await admin.supervisor.reconcileRoutes({ requestId });
    const reused = refusalOf(admin.supervisor.reconcileRoutes({ requestId, reassert: true }));

    expect(again).toEqual(first);
    expect(await reused).toMatchObject({ code: "InvalidArgument", reason: "REQUEST_ID_REUSED" });
    const { events } = await admin.supervisor.listEvents({ filter: `request_id = ${requestId}` });
    expect(events).toMatchObject([
      { type: EventType.ROUTES_RECONCILED, revision: first.revision, actor: "operator", service: "", requestId },
    ]);
  });

  test("pages hold every service once, in the order of their names", async () => {
    const names = ["a", "b", "c", "d", "e"].map((letter) => `${key}-page-${letter}`);
    await admin.registry.apply({ services: names.map((each) => ({ name: each, spec: external() })) });
    const filter = `name = ${key}-page-* AND kind = external`;
    const seen: string[] = [];

    let pageToken = "";
    let pages = 0;
    do {
      const page = await admin.registry.list({ pageSize: 2, pageToken, filter });
      seen.push(...page.services.map((service) => service.name));
      pageToken = page.nextPageToken;
      pages++;
    } while (pageToken !== "");

    expect(seen).toEqual(names);
    expect(pages).toBe(3);
    await admin.registry.apply({
      services: names.map((each) => ({ name: each, spec: external() })),
      setName: `${key}-page`,
    });
    await admin.registry.apply({ setName: `${key}-page`, prune: true });
    expect((await admin.registry.list({ filter })).services).toEqual([]);
  });

  test("a read waits for the revision that it is asked for, and not for ever", async () => {
    const service = `${key}-seen`;
    const reads = (minRevision: bigint) => [
      admin.registry.get({ name: service, minRevision }),
      admin.registry.list({ filter: `name = ${service}`, minRevision }),
      admin.registry.listRevisions({ name: service, minRevision }),
      admin.registry.listTokens({ service, minRevision }),
      admin.supervisor.listInstances({ service, minRevision }),
      admin.supervisor.listRoutes({ minRevision }),
      admin.supervisor
        .listEvents({ filter: `service = ${service}`, minRevision })
        .then(({ cursor }) => ({ ...cursor })),
    ];
    const { revision } = await admin.registry.create({ serviceId: service, service: { spec: external() } });

    const answers = await Promise.all(reads(revision));
    const refusals = await Promise.all(reads(revision + 1_000_000n).map(refusalOf));

    for (const answer of answers) expect(answer.revision).toBeGreaterThanOrEqual(revision);
    for (const refusal of refusals)
      expect(refusal).toMatchObject({
        code: "FailedPrecondition",
        reason: "REVISION_IN_FUTURE",
        metadata: { requested: String(revision + 1_000_000n) },
      });
    await remove(admin, service);
  });

  test("services are listed in the order asked for, with the same filter as a watch", async () => {
    const names = ["c", "a", "b"].map((letter) => `${key}-order-${letter}`);
    for (const each of names)
      await admin.registry.create({ serviceId: each, service: { spec: external({ labels: { "of.x": "Ärger" } }) } });
    const filter = `name : ${key}-ORDER AND labels.of.x = "Ä*" AND NOT kind = managed`;
    const inOrder = async (orderBy: string) => {
      const seen: string[] = [];
      for (let pageToken = ""; ; ) {
        const page = await admin.registry.list({ filter, orderBy, pageToken, pageSize: 2 });
        seen.push(...page.services.map(({ name: each }) => each));
        pageToken = page.nextPageToken;
        if (pageToken === "") return seen;
      }
    };
    const watch = watching(admin, { filter });
    const snapshot = await watch.upTo((message) => message.message.case === "snapshotEnd");
    await watch.end();

    expect(await inOrder("")).toEqual(names.toSorted());
    expect(await inOrder("name desc")).toEqual(names.toSorted().toReversed());
    expect(await inOrder("create_time")).toEqual(names);
    expect(await inOrder("state, create_time desc")).toEqual(names.toReversed());
    expect(told(snapshot).map(([, each]) => each)).toEqual(names.toSorted());
    for (const each of names) await remove(admin, each);
  });

  test("every spec that a service had is listed, and can be gone back to", async () => {
    const service = `${key}-past`;
    const create = { serviceId: service, service: { spec: external({ url: "http://10.1.2.3:80" }) } };
    const created = await admin.registry.create(create);
    const changed = await admin.registry.update({
      service: { name: service, spec: { url: "http://10.1.2.4:80", labels: { team: "data" } } },
    });
    const rollback = { name: service, revision: created.revision, requestId: randomUUID() };

    const [first, again] = [await admin.registry.rollback(rollback), await admin.registry.rollback(rollback)];

    expect(again).toEqual(first);
    expect(first.service?.spec).toEqual(created.service?.spec);
    expect(first.differences.map(({ path }) => path)).toEqual(["spec.url", "spec.labels.team"]);
    expect(first.differences[1]).toMatchObject({ oldValue: { kind: { value: "data" } } });
    expect(first.differences[1]?.newValue).toBeUndefined();
    const page = await admin.registry.listRevisions({ name: service, pageSize: 2 });
    const rest = await admin.registry.listRevisions({ name: service, pageSize: 2, pageToken: page.nextPageToken });
    const revisions = [...page.revisions, ...rest.revisions];
    expect(revisions.map(({ revision }) => revision)).toEqual([first.revision, changed.revision, created.revision]);
    expect(revisions.map(({ paths }) => paths)).toEqual([["spec.url", "spec.labels"], ["spec.url", "spec.labels"], []]);
    expect(revisions.map(({ spec }) => spec?.labels["team"])).toEqual([undefined, "data", undefined]);
    expect(revisions[0]).toMatchObject({ actor: "operator", time: { seconds: expect.any(BigInt) } });
    const { events } = await admin.supervisor.listEvents({ filter: `revision = ${first.revision}` });
    expect(events).toMatchObject([
      { type: EventType.SERVICE_UPDATED, payload: { case: "update", value: { rolledBackTo: created.revision } } },
    ]);
    await remove(admin, service);
  });

  test("a plan tells old and new value of each field, of the environment only to those who may read it", async () => {
    const service = `${key}-planned`;
    const spec = (colour: string, apiToken: string) =>
      managed({ command: ["sleep", "1000"], environment: { COLOUR: colour } }, { apiToken });
    await admin.registry.create({ serviceId: service, service: { spec: spec("umber", `${key}-umber-token`) } });
    const editor = await admin.registry.issueToken({ scopes: ["admin:services"] });
    const plan = { services: [{ name: service, spec: spec("ochre", `${key}-ochre-token`) }], validateOnly: true };

    const [whole, partial] = [await admin.registry.apply(plan), await as(editor.secret).registry.apply(plan)];

    const [shown, hidden] = [whole, partial].map(({ changes }) => changes[0]?.differences ?? []);
    expect(shown).toMatchObject([
      {
        path: 'spec.managed.environment["COLOUR"]',
        oldValue: { kind: { value: "umber" } },
        newValue: { kind: { value: "ochre" } },
        hidden: false,
      },
      { path: "spec.api_token", hidden: true },
    ]);
    expect(hidden?.map(({ path, hidden: isHidden }) => [path, isHidden])).toEqual([
      ["spec.managed.environment", true],
      ["spec.api_token", true],
    ]);
    expect(JSON.stringify(partial, textOfBigints)).not.toMatch(/umber|ochre/);
    expect(JSON.stringify(whole, textOfBigints)).not.toMatch(/(umber|ochre)-token/);
    await admin.registry.revokeToken({ tokenId: editor.token?.id ?? "" });
    await remove(admin, service);
  });

  test("events tell who caused them, with which token, from where and with which request", async () => {
    const [service, requestId] = [`${key}-whose`, randomUUID()];
    const issued = await admin.registry.issueToken({});
    const { token } = issued;
    const other = as(issued.secret);

    await other.registry.create({ serviceId: service, service: { spec: external() }, requestId });

    const { events } = await admin.supervisor.listEvents({
      filter: `token_id = ${token?.id} AND peer = "127.0.0.1:*"`,
    });
    expect(events).toMatchObject([
      { type: EventType.SERVICE_CREATED, service, actor: "operator", tokenId: token?.id, requestId },
    ]);
    expect(events[0]?.peer).toMatch(/^127\.0\.0\.1:\d+$/);
    expect(JSON.stringify(events, textOfBigints)).not.toContain(issued.secret);
    await admin.registry.revokeToken({ tokenId: token?.id ?? "" });
    await remove(admin, service);
  });

  test("a signal that is asked for twice with one request id is sent once, and recorded with who asked", async () => {
    const service = `${key}-signalled`;
    const script = "trap 'echo hup' HUP; echo listens; while :; do sleep 0.05; done";
    const spec = managed({ command: ["sh", "-c", script], minReady: { nanos: 1 } });
    const { revision } = await admin.registry.create({ serviceId: service, service: { spec } });
    await until(admin, service, WaitCondition.READY, revision);
    const written = (text: string) =>
      eventually(async () => (await output(admin, service, LogStream.STDOUT)) === `listens\n${text}`);
    await written("");
    const signal = { name: service, signal: "SIGHUP", requestId: randomUUID() };

    const [first, again] = [await admin.supervisor.signal(signal), await admin.supervisor.signal(signal)];
    // Of two that are sent before it has heard of the first a shell hears one.
    await written("hup\n");
    await admin.supervisor.signal({ ...signal, requestId: randomUUID() });

    expect(again).toEqual(first);
    await written("hup\nhup\n");
    const filter = `service = ${service} AND type = instance_signalled AND token_id : * AND peer : *`;
    expect((await admin.supervisor.listEvents({ filter })).events).toHaveLength(2);
    await remove(admin, service);
  });

  test("a token that is missing may be revoked where that is allowed", async () => {
    const answer = await admin.registry.revokeToken({ tokenId: randomUUID(), allowMissing: true });

    expect(answer).toMatchObject({ revision: 0n });
    expect(answer.token).toBeUndefined();
  });

  test("a set is planned, applied in one transaction, applied again without effect, and pruned", async () => {
    const setName = `${key}-set`;
    const [one, two] = [`${key}-set-one`, `${key}-set-two`];
    const services = [one, two].map((each) => ({ name: each, spec: external({ url: "http://10.1.2.3:80" }) }));

    const plan = await admin.registry.apply({ services, setName, validateOnly: true });
    expect(plan.revision).toBe(0n);
    expect(actionsOf(plan)).toEqual([
      [one, ApplyAction.CREATE],
      [two, ApplyAction.CREATE],
    ]);
    expect((await admin.registry.list({ filter: `set_name = ${setName}` })).services).toEqual([]);

    const applied = await admin.registry.apply({ services, setName });
    expect(applied.changes.map(({ service }) => service?.revision)).toEqual([applied.revision, applied.revision]);
    const again = await admin.registry.apply({ services, setName });
    expect(actionsOf(again)).toEqual([
      [one, ApplyAction.UNCHANGED],
      [two, ApplyAction.UNCHANGED],
    ]);

    const fewer = await admin.registry.apply({
      services: [{ name: two, spec: external({ url: "http://10.1.2.4:80" }) }],
      setName,
      prune: true,
    });
    expect(actionsOf(fewer)).toEqual([
      [two, ApplyAction.UPDATE],
      [one, ApplyAction.DELETE],
    ]);
    expect(fewer.changes[0]?.paths).toEqual(["spec.url"]);
    await admin.registry.apply({ setName, prune: true });
  });

  test("a watch of services begins with what is, goes on with changes, and is resumed without gap or duplicate", async () => {
    const prefix = `${key}-watch`;
    const filter = `name = ${prefix}-* AND admin = false`;
    await admin.registry.create({ serviceId: `${prefix}-a`, service: { spec: external() } });
    const first = watching(admin, { filter });
    const start = await first.upTo((message) => message.message.case === "snapshotEnd");
    await admin.registry.create({ serviceId: `${prefix}-b`, service: { spec: external() } });
    const changes = await first.upTo((message) => message.message.case === "batch");
    await first.end();
    // While nobody watches: one change of each kind.
    await admin.registry.update({ service: { name: `${prefix}-a`, spec: { display: true, labels: { x: "y" } } } });
    await admin.registry.update({ service: { name: `${prefix}-b`, spec: { admin: true } } });
    await admin.registry.create({ serviceId: `${prefix}-c`, service: { spec: external() } });
    await admin.registry.delete({ name: `${prefix}-c` });
    const last = await admin.registry.create({ serviceId: `${prefix}-d`, service: { spec: external() } });

    const after = changes.at(-1)?.cursor;
    const second = watching(admin, { filter, ...(after === undefined ? {} : { after }) });
    const resumed = await second.upTo((message) => (message.cursor?.revision ?? 0n) >= last.revision);
    await second.end();

    expect(start[0]?.message.case).toBe("opened");
    expect(told([...start, ...changes])).toEqual([
      [ServiceChangeType.SNAPSHOT, `${prefix}-a`],
      [ServiceChangeType.CHANGED, `${prefix}-b`],
    ]);
    const deduplicated = told(resumed).filter(
      ([, service], index, all) => all[index - 1]?.[1] !== service || index === 0,
    );
    expect(deduplicated.map(([, service]) => service)).toEqual(
      ["a", "b", "c", "d"].map((letter) => `${prefix}-${letter}`),
    );
    expect(told(resumed)).toContainEqual([ServiceChangeType.GONE, `${prefix}-b`]);
    expect(told(resumed)).toContainEqual([ServiceChangeType.GONE, `${prefix}-c`]);
    for (const letter of ["a", "b", "d"]) await remove(admin, `${prefix}-${letter}`);
  });

  test("a watch of events tells everything once and in order, with the service after each", async () => {
    const service = `${key}-events`;
    const { cursor } = await admin.supervisor.listEvents({ tail: 1 });
    const calls = new AbortController();
    const seen: { revision: bigint; index: number; type: EventType; generation: bigint | undefined }[] = [];
    const reading = (async () => {
      const request = {
        filter: `service = ${service}`,
        includeServices: true,
        ...(cursor === undefined ? {} : { after: cursor }),
      };
      for await (const { message } of admin.supervisor.watchEvents(request, { signal: calls.signal })) {
        if (message.case !== "batch") continue;
        for (const { revision, index, type, after } of message.value.events)
          seen.push({ revision, index, type, generation: after?.generation });
        if (seen.some(({ type }) => type === EventType.SERVICE_DELETED)) return;
      }
    })();

    await createReady(admin, service);
    await remove(admin, service);
    await reading;
    calls.abort();

    const listed = await admin.supervisor.listEvents({ filter: `service = ${service}`, pageSize: 1000 });
    expect(seen.map(({ revision, index }) => [revision, index])).toEqual(
      listed.events.map(({ revision, index }) => [revision, index]),
    );
    expect(seen.map(({ type }) => type).filter((type) => type !== EventType.TOKEN_REVOKED)).toEqual([
      EventType.SERVICE_CREATED,
      EventType.INSTANCE_STARTING,
      EventType.INSTANCE_STARTED,
      EventType.INSTANCE_READY,
      EventType.WISH_CHANGED,
      EventType.INSTANCE_STOPPING,
      EventType.INSTANCE_EXITED,
      EventType.SERVICE_STOPPED,
      EventType.SERVICE_DELETED,
    ]);
    expect(seen[0]?.generation).toBe(1n);
    expect(seen.at(-1)?.generation).toBeUndefined();
  });

  test("events are listed in pages, from a time, and from the end", async () => {
    const service = `${key}-listed`;
    const filter = `service = ${service}`;
    await admin.registry.create({ serviceId: service, service: { spec: external() } });
    for (const team of ["a", "b", "c"])
      await admin.registry.update({ service: { name: service, spec: { labels: { team } } } });
    await remove(admin, service);
    const all = (await admin.supervisor.listEvents({ filter, pageSize: 1000 })).events;

    const first = await admin.supervisor.listEvents({ filter, pageSize: 2 });
    const second = await admin.supervisor.listEvents({ filter, pageSize: 1000, pageToken: first.nextPageToken });
    const tail = await admin.supervisor.listEvents({ filter, tail: 2 });
    const middle = all[2]?.time;
    const since = await admin.supervisor.listEvents({
      filter,
      pageSize: 1000,
      ...(middle === undefined ? {} : { since: middle }),
    });

    expect([...first.events, ...second.events]).toEqual(all);
    expect(tail.events).toEqual(all.slice(-2));
    expect(since.events.at(-1)).toEqual(all.at(-1));
    expect(since.events.length).toBeLessThan(all.length);
    expect(all.map(({ type }) => type)).toContain(EventType.SERVICE_DELETED);
  });

  test("a token is issued, works, is rotated with an overlap, and ends at once when it is revoked", async () => {
    const issued = await admin.registry.issueToken({ note: `${key}-token` });
    const { token } = issued;
    expect(issued.secret).toMatch(/^sts_[0-9A-Za-z]{36}$/);
    expect(await as(issued.secret).registry.whoAmI({})).toMatchObject({
      kind: PrincipalKind.OPERATOR,
      tokenId: token?.id,
    });

    const rotated = await admin.registry.rotateToken({ tokenId: token?.id ?? "", overlap: { seconds: 60n } });
    expect(rotated.replaced).toMatchObject({ id: token?.id, replacedBy: rotated.token?.id, state: TokenState.ACTIVE });
    await as(issued.secret).registry.whoAmI({});
    await as(rotated.secret).registry.whoAmI({});

    for (const each of [token, rotated.token]) await admin.registry.revokeToken({ tokenId: each?.id ?? "" });
    const refusals = await Promise.all(
      [issued, rotated].map(({ secret }) => refusalOf(as(secret).registry.whoAmI({}))),
    );
    expect(refusals.map(({ reason }) => reason)).toEqual(["TOKEN_REVOKED", "TOKEN_REVOKED"]);
    const again = await admin.registry.revokeToken({ tokenId: token?.id ?? "" });
    expect(again.token?.state).toBe(TokenState.REVOKED);
    const listed = await admin.registry.listTokens({ showEnded: true, pageSize: 1000 });
    expect(listed.tokens.map(({ id }) => id)).toContain(token?.id);
    expect(JSON.stringify(listed.tokens, textOfBigints)).not.toContain(issued.secret);
  });

  test("a token that ends takes its streams with it", async () => {
    const issued = await admin.registry.issueToken({});
    const stream = as(issued.secret).registry.watchServices({})[Symbol.asyncIterator]();
    await stream.next();

    await admin.registry.revokeToken({ tokenId: issued.token?.id ?? "" });

    const end = await eventually(async () => {
      try {
        await stream.next();
        return undefined;
      } catch (error) {
        return readRefusal(error);
      }
    });
    expect(end).toMatchObject({ code: "Unauthenticated", reason: "TOKEN_REVOKED" });
  });

  test("a token never grants more than its issuer has", async () => {
    const issuer = await admin.registry.issueToken({ scopes: ["tokens:services", "read:services"] });
    const service = `${key}-admin`;
    await admin.registry.create({ serviceId: service, service: { spec: external({ admin: true }) } });
    const { registry } = as(issuer.secret);

    const refusals = await Promise.all([
      refusalOf(registry.issueToken({ scopes: ["admin:services"] })),
      refusalOf(registry.issueToken({})),
      refusalOf(registry.issueToken({ service })),
    ]);
    const allowed = await registry.issueToken({ scopes: ["read:services!service=web"] });

    expect(refusals.map(({ code }) => code)).toEqual(Array(3).fill("PermissionDenied"));
    expect(allowed.token?.scopes).toEqual(["read:services!service=web"]);
    await admin.registry.revokeToken({ tokenId: issuer.token?.id ?? "" });
    await remove(admin, service);
  });

  test("a service that is no admin learns who it is and no more; what it may do changes with the next call", async () => {
    const service = `${key}-plain`;
    const apiToken = `${key}-a-token-that-the-operator-supplied`;
    const created = await admin.registry.create({ serviceId: service, service: { spec: external({ apiToken }) } });
    const own = as(apiToken);

    const before = await own.registry.whoAmI({});
    expect(before).toMatchObject({ kind: PrincipalKind.SERVICE, name: service, admin: false, scopes: [] });
    expect(await refusalOf(own.registry.get({ name: service }))).toMatchObject({ reason: "SCOPE_MISSING" });

    await admin.registry.update({ service: { name: service, spec: { admin: true } } });
    expect((await own.registry.whoAmI({})).admin).toBe(true);
    await own.registry.get({ name: service });

    await admin.registry.update({ service: { name: service }, updateMask: { paths: ["spec.admin"] } });
    expect((await own.registry.whoAmI({})).admin).toBe(false);
    expect(await refusalOf(own.registry.list({}))).toMatchObject({ code: "PermissionDenied" });

    const shown = await admin.registry.get({ name: service });
    expect(created.service?.spec).toMatchObject({ apiToken: "", apiTokenSet: true });
    expect(JSON.stringify(shown, textOfBigints)).not.toContain(apiToken);
    await remove(admin, service);
    expect(await refusalOf(own.registry.whoAmI({}))).toMatchObject({ code: "Unauthenticated" });
  });

  test("environment values are shown only to those who may read them", async () => {
    const service = `${key}-secretive`;
    const spec = managed({ command: ["sleep", "1000"], environment: { COLOUR: "ultramarine" } });
    await admin.registry.create({ serviceId: service, service: { spec } });
    const reader = await admin.registry.issueToken({ scopes: ["read:services", "list:services"] });
    const { registry } = as(reader.secret);

    const got = await registry.get({ name: service });
    const listed = await registry.list({ filter: `name = ${service}` });
    const whole = await admin.registry.get({ name: service });

    expect(JSON.stringify([got, listed], textOfBigints)).not.toContain("ultramarine");
    expect(JSON.stringify(whole, textOfBigints)).toContain("ultramarine");
    await admin.registry.revokeToken({ tokenId: reader.token?.id ?? "" });
    await remove(admin, service);
  });

  test("a token for one service shows and controls that one only", async () => {
    const [mine, other] = [`${key}-mine`, `${key}-other`];
    await admin.registry.apply({ services: [mine, other].map((each) => ({ name: each, spec: external() })) });
    const scopes = ["list:services", "read:services", "admin:services"].map((scope) => `${scope}!service=${mine}`);
    const issued = await admin.registry.issueToken({ scopes });
    const { registry } = as(issued.secret);

    expect((await registry.list({ pageSize: 1 })).services.map((service) => service.name)).toEqual([mine]);
    await registry.get({ name: mine });
    await registry.update({ service: { name: mine, spec: { labels: { x: "y" } } } });
    const refusals = await Promise.all([
      refusalOf(registry.get({ name: other })),
      refusalOf(registry.delete({ name: other })),
      refusalOf(registry.apply({ services: [{ name: other, spec: external() }] })),
    ]);

    expect(refusals.map(({ reason }) => reason)).toEqual(Array(3).fill("SCOPE_MISSING"));
    await admin.registry.revokeToken({ tokenId: issued.token?.id ?? "" });
    for (const each of [mine, other]) await remove(admin, each);
  });

  test("what a service writes is streamed: what is kept, the last lines, and what comes", async () => {
    const service = `${key}-talks`;
    const script = "echo one; echo two; echo three; echo wrong >&2; while :; do sleep 0.2; echo more; done";
    const spec = managed({ command: ["sh", "-c", script], minReady: { nanos: 1 } });
    const { revision } = await admin.registry.create({ serviceId: service, service: { spec } });
    await until(admin, service, WaitCondition.READY, revision);
    await eventually(async () => (await output(admin, service, LogStream.STDOUT)).startsWith("one\ntwo\nthree\n"));
    await eventually(async () => (await output(admin, service, LogStream.STDERR)) === "wrong\n");

    const follower = new AbortController();
    let followed = "";
    for await (const { data } of admin.supervisor.streamLogs(
      { name: service, streams: [LogStream.STDOUT], tailLines: 1, follow: true },
      { signal: follower.signal },
    )) {
      followed += Buffer.from(data).toString();
      if (followed.split("more\n").length > 3) break;
    }
    follower.abort();

    expect(followed).not.toContain("one");
    await remove(admin, service);
  });

  test("a follower of the output of a deleted service comes to the end", async () => {
    const service = `${key}-last-words`;
    await createReady(admin, service);
    const reading = Array.fromAsync(admin.supervisor.streamLogs({ name: service, follow: true }));

    await remove(admin, service);

    expect(await reading).toEqual([]);
  });
});

async function setScene(
  key: string,
  admin: Clients,
  as: (token: string | undefined) => Clients,
): Promise<BadRequestScene> {
  const taken = `Taken-${key}`;
  const takenApiToken = `the-api-token-of-${taken}-is-a-secret`;
  const usedRequestId = randomUUID();
  const { revision: takenRevision } = await admin.registry.create({
    serviceId: taken,
    service: { spec: external({ apiToken: takenApiToken }) },
    requestId: usedRequestId,
  });
  await admin.registry.create({ serviceId: `${taken}-2`, service: { spec: external() } });
  const reader = await admin.registry.issueToken({ scopes: ["read:services"] });
  const revoked = await admin.registry.issueToken({});
  await admin.registry.revokeToken({ tokenId: revoked.token?.id ?? "" });
  const { nextPageToken } = await admin.registry.list({ pageSize: 1 });
  return {
    admin,
    nobody: as(undefined),
    wrongToken: as("sts_this-is-not-a-token"),
    revokedToken: as(revoked.secret),
    service: as(takenApiToken),
    reader: as(reader.secret),
    addresses: steward.addresses,
    taken,
    takenApiToken,
    takenRevision,
    free: `free-${key}`,
    pageToken: nextPageToken,
    usedRequestId,
  };
}

/** All that a refused request could have left behind. */
async function everything({ registry, supervisor }: Clients): Promise<unknown> {
  const { services, revision } = await registry.list({ pageSize: 1000 });
  const { tokens } = await registry.listTokens({ showEnded: true, pageSize: 1000 });
  const { routes } = await supervisor.listRoutes({ pageSize: 1000 });
  const { instances } = await supervisor.listInstances({ liveOnly: true, pageSize: 1000 });
  return {
    revision,
    services: services.map(({ name, etag }) => [name, etag]),
    tokens: tokens.map(({ id, state }) => [id, state]),
    routes: routes.map(({ prefix }) => prefix),
    instances: instances.map(({ id }) => id),
  };
}

async function until({ supervisor }: Clients, name: string, condition: WaitCondition, minRevision: bigint) {
  const { service } = await supervisor.wait({ name, condition, minRevision, timeout: { seconds: 30n } });
  return service;
}

async function createReady(admin: Clients, name: string) {
  const spec = managed({ command: ["sleep", "1000"], minReady: { nanos: 1 } });
  const { revision } = await admin.registry.create({ serviceId: name, service: { spec } });
  const ready = await until(admin, name, WaitCondition.READY, revision);
  if (ready === undefined) throw new Error(`${name} is gone`);
  return ready;
}

async function remove(admin: Clients, name: string): Promise<void> {
  const { revision } = await admin.registry.delete({ name, force: true });
  await until(admin, name, WaitCondition.DELETED, revision);
}

async function output({ supervisor }: Clients, name: string, stream: LogStream): Promise<string> {
  let text = "";
  for await (const { data } of supervisor.streamLogs({ name, streams: [stream] })) text += Buffer.from(data).toString();
  return text;
}

function isAlive(pid: number | undefined): boolean {
  if (pid === undefined || pid === 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** A watch that is read piece by piece. */
function watching({ registry }: Clients, request: Parameters<Clients["registry"]["watchServices"]>[0]) {
  const calls = new AbortController();
  const stream = registry.watchServices(request, { signal: calls.signal })[Symbol.asyncIterator]();
  return {
    async upTo(isLast: (message: WatchServicesResponse) => boolean): Promise<WatchServicesResponse[]> {
      const messages: WatchServicesResponse[] = [];
      for (;;) {
        const { value, done } = await stream.next();
        if (done === true) throw new Error("the watch ended");
        messages.push(value);
        if (isLast(value)) return messages;
      }
    },
    async end(): Promise<void> {
      calls.abort();
      await stream.return?.().catch(() => undefined);
    },
  };
}

function told(messages: readonly WatchServicesResponse[]): [ServiceChangeType, string | undefined][] {
  return messages.flatMap(({ message }) =>
    message.case === "batch"
      ? message.value.changes.map(({ type, service }): [ServiceChangeType, string | undefined] => [type, service?.name])
      : [],
  );
}

function actionsOf(applied: { changes: readonly { name: string; action: ApplyAction }[] }): [string, ApplyAction][] {
  return applied.changes.map(({ name, action }) => [name, action]);
}

function textOfBigints(_: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}

function escaped(text: string): string {
  return text.replaceAll(/[.[\]]/g, String.raw`\$&`);
}
