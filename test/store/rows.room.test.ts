import { randomUUID } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Waiting } from "../../src/domain/dependency.ts";
import type { EventBody } from "../../src/domain/event.ts";
import type { Route } from "../../src/domain/route.ts";
import type { Condition, Instance, InstanceExit, ServiceStatus, SideInstance } from "../../src/domain/status.ts";
import type { NewToken } from "../../src/store/tokens.ts";
import { anySpec, aRoute, aStatus } from "../rpc/arbitrary.ts";
import { query } from "../support/postgres.ts";
import {
  anInstance,
  anOccurrence,
  append,
  aToken,
  create,
  emptyDatabase,
  managedSpec,
  startStore,
  touch,
  wholeLog,
} from "./workbench.ts";

test("whatever a service is, it is read as it was written: in reads, in answers and in events", async () => {
  const store = await startStore();
  await fc.assert(
    fc.asyncProperty(anySpec(), aServiceStatus(), fc.constantFrom("", "set-✓"), async (spec, status, setName) => {
      const name = `s-${randomUUID()}`;
      const own = { ...spec, oauthClientId: `service-${name}` };
      const sealed = Buffer.from([0, 255, 1]);

      const created = await create(store, name, { spec: own, status, setName, apiTokenSealed: sealed });

      const { service, revision } = await store.services.byName(name);
      const [event] = await store.events.readAfter(created.revision - 1n, 1);
      expect(plain(created.spec)).toEqual(plain(own));
      expect(created.status).toEqual(status);
      expect(created).toMatchObject({ name, wish: "running", generation: 1, version: 1, setName, route: undefined });
      expect(service).toEqual(created);
      expect(event?.after).toEqual(created);
      expect(revision).toBe(created.revision);
      expect(await store.services.sealedApiToken(created.uid)).toEqual(sealed);
    }),
    { numRuns: 60 },
  );
});

test("events of a service whose spec is the same share one in memory", async () => {
  const store = await startStore();
  const service = await create(store, "web");
  const other = await create(store, "wiki", { spec: { ...service.spec, oauthClientId: "service-wiki" } });
  await touch(store, service);
  const changed = managedSpec("web", { command: ["sleep", "2"] });
  await store.write(async (tx) => {
    await tx.updateService(service, { spec: changed });
    tx.append({ ...anOccurrence(), body: { type: "service_stopped" }, service });
  });

  const events = await store.events.readAfter(0n, 10);
  const [created, wiki, touched, last] = events.map(({ after }) => after?.spec);

  expect(touched).toBe(created);
  expect(wiki).not.toBe(created);
  expect(wiki).toEqual(other.spec);
  expect(last).toEqual(changed);
  expect((await store.services.byName("web")).service?.spec).toBe(last);
});

test("whatever happened, the event is read as it was written", async () => {
  const store = await startStore();
  await fc.assert(
    fc.asyncProperty(fc.array(anEventBody(), { minLength: 1, maxLength: 10 }), async (bodies) => {
      const { revision } = await store.write(async (tx) => {
        for (const body of bodies) tx.append({ ...anOccurrence(), body });
      });

      const events = await store.events.readAfter(revision - 1n, 1);
      expect(events.map(({ body }) => body)).toEqual(bodies);
    }),
    { numRuns: 60 },
  );
});

test("whatever an instance is, it is read as it was written and as it was updated", async () => {
  const store = await startStore();
  await fc.assert(
    fc.asyncProperty(someInstance(), someInstance(), async (first, second) => {
      const service = { name: "web", uid: randomUUID(), generation: 1 };
      const instance = anInstance(await create(store, `s-${service.uid}`), first);
      const { id, service: name, serviceUid, generation, node, createTime } = instance;
      const updated = { ...instance, ...second, id, service: name, serviceUid, generation, node, createTime };

      await store.write((tx) => tx.saveInstance(instance));
      const inserted = await pageOfInstances(serviceUid);
      await store.write((tx) => tx.saveInstance(updated));

      expect(inserted).toEqual([instance]);
      expect(await pageOfInstances(serviceUid)).toEqual([updated]);
    }),
    { numRuns: 60 },
  );

  function pageOfInstances(serviceUid: string) {
    return store.instances.page({ serviceUid, liveOnly: false, after: undefined, limit: 10 });
  }
});

test("whatever a route is, it is read as it was written, alone and with its service", async () => {
  const store = await startStore();
  const service = await create(store, "web");
  await fc.assert(
    fc.asyncProperty(someRoute(), async (some) => {
      const route = aRoute({ ...some, service: "web", serviceUid: service.uid });

      await store.write(async (tx) => {
        await tx.saveRoute(route);
        tx.append({ ...anOccurrence(), service, body: { type: "route_programmed", route } });
      });

      const [event] = await store.events.readBefore((await store.events.bounds()).head + 1n, 1);
      expect(await store.routes.page({ afterService: undefined, limit: 10 })).toEqual([route]);
      expect((await store.services.byName("web")).service?.route).toEqual(route);
      expect(event?.body).toEqual({ type: "route_programmed", route });
      expect(event?.after?.route).toEqual(route);
    }),
    { numRuns: 60 },
  );
});

test("whatever a token is, it is read as it was written, with its owner", async () => {
  const store = await startStore();
  const admin = await create(store, "admin", { spec: { ...managedSpec("admin"), admin: true } });
  const plainOwner = await create(store, "plain");
  await fc.assert(
    fc.asyncProperty(someToken(), fc.constantFrom(admin, plainOwner, undefined), async (some, owner) => {
      const service = owner === undefined ? undefined : { name: owner.name, uid: owner.uid };
      const { digest, ...token } = aToken({ ...some, service });

      await store.write((tx) => tx.insertToken({ ...token, digest }));

      const stored = { token, digest, ownerAdmin: owner === admin };
      const fresh = {
        ...stored,
        token: { ...token, revokeTime: undefined, lastUsedTime: undefined, replacedBy: undefined },
      };
      expect(await store.tokens.byId(token.id)).toEqual(fresh);
      await store.write((tx) => tx.updateToken(token.id, withoutUndefined(token)));
      expect((await store.tokens.byId(token.id))?.token).toEqual({ ...token, lastUsedTime: undefined });
    }),
    { numRuns: 60 },
  );
});

test("revisions beyond what a JavaScript number holds are exact", async () => {
  const connection = await emptyDatabase();
  const store = await startStore(connection);
  const large = 9_007_199_254_740_993n;
  await query(connection, `UPDATE store SET head = ${large}, compacted = ${large}, swept = ${large}`);

  const service = await create(store, "web");

  expect(service.revision).toBe(large + 1n);
  expect((await store.services.byName("web")).service?.revision).toBe(large + 1n);
  expect((await store.events.readAfter(large, 1))[0]).toMatchObject({ revision: large + 1n, after: service });
  expect(await store.events.bounds()).toEqual({ head: large + 1n, oldest: large });
});

test("a database that writes dates in its own way is read as any other", async () => {
  const connection = await emptyDatabase();
  await query(connection, `ALTER DATABASE ${connection.database} SET DateStyle = 'SQL, DMY'`);
  await query(connection, `ALTER DATABASE ${connection.database} SET TimeZone = 'Asia/Kolkata'`);
  await query(connection, `ALTER DATABASE ${connection.database} SET IntervalStyle = 'sql_standard'`);
  await query(connection, `ALTER DATABASE ${connection.database} SET bytea_output = 'escape'`);
  const store = await startStore(connection);
  const service = await create(store, "web", { apiTokenSealed: Buffer.from([0, 200]) });
  const [instance, token] = [anInstance(service), aToken()];

  await store.write((tx) => Promise.all([tx.saveInstance(instance), tx.insertToken(token)]));

  expect(await store.instances.live("here")).toEqual([instance]);
  expect((await store.tokens.byId(token.id))?.token.createTime).toEqual(token.createTime);
  expect(await store.services.sealedApiToken(service.uid)).toEqual(Buffer.from([0, 200]));
  expect((await wholeLog(store))[0]?.time.getFullYear()).toBe(new Date().getFullYear());
});

test("a program's last words that no text can hold do not keep its exit from being recorded", async () => {
  const store = await startStore();
  const service = await create(store, "web");
  const exit = { ...anExit, message: "said \0 and \ud800" };
  const instance = anInstance(service, { state: "ended", exit });

  await store.facts.record({
    serviceUid: service.uid,
    status: aStatus({ lastExit: exit, message: exit.message }),
    instances: [instance],
    events: [{ body: { type: "instance_exited", instanceId: instance.id, pid: 1, exit }, message: exit.message }],
  });

  const said = "said \uFFFD and \uFFFD";
  const [event] = await store.events.readBefore(10n, 1);
  expect(event).toMatchObject({ message: said, body: { exit: { message: said } } });
  expect((await store.services.byName("web")).service?.status.lastExit?.message).toBe(said);
});

test("text of a client that no text can hold is refused, not changed", async () => {
  const store = await startStore();

  for (const text of ["a\0b", "a\ud800b"]) {
    const spec = { ...managedSpec("web"), info: { text } };
    await expect(create(store, "web", { spec })).rejects.toMatchObject({ reason: "VALIDATION_FAILED" });
  }

  expect((await store.services.snapshot()).services).toEqual([]);
});

test("a name is one service's, in whatever case", async () => {
  const store = await startStore();
  await create(store, "Web");

  await expect(create(store, "wEB", { spec: managedSpec("other") })).rejects.toMatchObject({
    code: "already_exists",
    reason: "SERVICE_EXISTS",
  });
  expect((await store.services.byName("web")).service).toBeUndefined();
  expect((await store.services.byName("Web")).service?.name).toBe("Web");
});

test("a service is read with those it depends on, near and far, in whatever case, and with nobody else", async () => {
  const store = await startStore();
  const on = (...names: string[]) => ({
    dependsOn: names.map((service) => ({ service, condition: "started" as const })),
  });
  await create(store, "database");
  await create(store, "Cache", { spec: managedSpec("Cache", on("database")) });
  await create(store, "web", { spec: managedSpec("web", on("cache", "database", "not-there")) });
  await create(store, "other", { spec: managedSpec("other", on("web")) });
  const namesWith = async (name: string) => {
    const { services, revision } = await store.services.withDependencies(name);
    expect(revision).toBe(4n);
    return services.map((service) => service.name).sort();
  };

  expect(await namesWith("web")).toEqual(["Cache", "database", "web"]);
  expect(await namesWith("database")).toEqual(["database"]);
  expect(await namesWith("not-there")).toEqual([]);
});

test("an OAuth client id is one service's", async () => {
  const store = await startStore();
  await create(store, "web");
  const other = await create(store, "other");
  const spec = managedSpec("web");

  await expect(create(store, "third", { spec })).rejects.toMatchObject({
    code: "invalid_argument",
    violations: [{ field: "service.spec.oauth_client_id" }],
  });
  await expect(store.write((tx) => tx.updateService(other, { spec }))).rejects.toMatchObject({
    code: "invalid_argument",
  });
});

test("a token is one service's; a supplied one may come back after it was revoked", async () => {
  const store = await startStore();
  const [first, second] = [await create(store, "first"), await create(store, "second")];
  const supplied = (service: { name: string; uid: string }, rest: Partial<NewToken> = {}) =>
    aToken({
      source: "supplied",
      digest: Buffer.from("same"),
      service: { name: service.name, uid: service.uid },
      ...rest,
    });
  const insert = (token: NewToken) => store.write((tx) => tx.insertToken(token));
  const inUse = { code: "already_exists", reason: "TOKEN_IN_USE" };
  await insert(supplied(first));

  await expect(insert(supplied(second))).rejects.toMatchObject(inUse);
  await store.write((tx) => tx.revokeTokens(first.uid, new Date()));
  await expect(insert(supplied(second, { source: "issued" }))).rejects.toMatchObject(inUse);
  const again = supplied(second, { note: "again" });
  await insert(again);

  expect(await store.tokens.ofService(first.uid)).toEqual([]);
  expect(await store.tokens.ofService(second.uid)).toMatchObject([
    { token: { id: again.id, note: "again", revokeTime: undefined }, digest: Buffer.from("same") },
  ]);
});

test("a token's use is noted at most every five minutes", async () => {
  const store = await startStore();
  const token = aToken();
  await store.write((tx) => tx.insertToken(token));
  const at = (minutes: number) => new Date(Date.UTC(2026, 0, 3, 0, minutes));

  const noted: (Date | undefined)[] = [];
  for (const minutes of [0, 4, 6]) {
    await store.tokens.noteUse(new Map([[token.id, at(minutes)]]));
    noted.push((await store.tokens.byId(token.id))?.token.lastUsedTime);
  }

  expect(noted).toEqual([at(0), at(0), at(6)]);
});

test("a service has one instance of each role that may be alive, and a prefix one route", async () => {
  const store = await startStore();
  const [web, other] = [await create(store, "web"), await create(store, "other")];
  for (const role of ["current", "replacement", "retiring"] as const)
    await store.write((tx) => tx.saveInstance(anInstance(web, { role })));
  await store.write((tx) => tx.saveRoute(aRoute({ service: "web", serviceUid: web.uid })));

  const refused = await Promise.allSettled([
    store.write((tx) => tx.saveInstance(anInstance(web))),
    store.write((tx) => tx.saveRoute(aRoute({ service: "other", serviceUid: other.uid }))),
  ]);

  expect(refused).toMatchObject([
    { status: "rejected", reason: { constraint: "instances_one_live" } },
    { status: "rejected", reason: { constraint: "routes_prefix_unique" } },
  ]);
});

test("a service goes only when no instance of it may live and no route is left, and takes its tokens with it", async () => {
  const store = await startStore();
  const service = await create(store, "web");
  const token = aToken({ service: { name: "web", uid: service.uid } });
  const instance = anInstance(service);
  await store.write(async (tx) => {
    await tx.insertToken(token);
    await tx.saveInstance(instance);
    await tx.saveRoute(aRoute({ service: "web", serviceUid: service.uid }));
  });
  const finish = async () => (await store.write((tx) => tx.finishDeletion(service.uid))).value;

  const outcomes = [await finish()];
  await store.write((tx) => tx.updateService(service, { wish: "deleted", version: 2 }));
  outcomes.push(await finish());
  await store.write((tx) => tx.removeRoute(service.uid));
  outcomes.push(await finish());
  await store.write((tx) => tx.saveInstance({ ...instance, state: "ended", exit: anExit }));
  outcomes.push(await finish(), await finish());

  expect(outcomes).toEqual([false, false, false, true, false]);
  expect(await store.tokens.byId(token.id)).toBeUndefined();
});

test("a patch changes what it names and nothing else", async () => {
  const store = await startStore();
  const sealed = Buffer.from("sealed");
  const service = await create(store, "web", { apiTokenSealed: sealed, setName: "set" });
  const spec = managedSpec("web", { command: ["true"] });

  await store.write(async (tx) => {
    await tx.updateService(service, { generation: 2, resets: 3, status: aStatus({ restarts: 7 }) });
    tx.append({ ...anOccurrence(), service });
  });
  const quiet = (await store.services.byName("web")).service;
  await store.write((tx) => tx.updateService(service, { spec, version: 2, setName: "", apiTokenSealed: null }));
  const { service: loud } = await store.services.byName("web");

  expect(quiet).toEqual({ ...service, generation: 2, resets: 3, status: aStatus({ restarts: 7 }), revision: 2n });
  expect(loud).toMatchObject({ spec: plain(spec), version: 2, setName: "", generation: 2, resets: 3 });
  expect(loud?.updateTime.getTime()).toBeGreaterThan(service.updateTime.getTime());
  expect(await store.services.sealedApiToken(service.uid)).toBeUndefined();
});

test("of two requests with one id the second waits for the first, and gets its answer", async () => {
  const store = await startStore();
  const requestId = randomUUID();
  const expireTime = new Date(Date.now() + 60_000);
  let effects = 0;

  const answers = await Promise.all(
    ["first", "second", "third"].map((answer) =>
      store.write(async (tx) => {
        const earlier = await tx.claimRequest("operator", "Create", requestId, "hash", expireTime);
        if (earlier !== undefined) return `${earlier.hash} ${String(earlier.response)}`;
        effects++;
        tx.append(anOccurrence(answer));
        await tx.rememberResponse("operator", "Create", requestId, Buffer.from(answer));
        return `hash ${answer}`;
      }),
    ),
  );

  expect(effects).toBe(1);
  expect(new Set(answers.map(({ value }) => value)).size).toBe(1);
  expect(await wholeLog(store)).toHaveLength(1);
});

test("a request that failed leaves its id free; one of another caller, or expired, is another one", async () => {
  const store = await startStore();
  const requestId = randomUUID();
  const [past, later] = [new Date(Date.now() - 1_000), new Date(Date.now() + 60_000)];
  const claim = async (principal: string, expireTime: Date, fail = false) => {
    const { value } = await store.write(async (tx) => {
      const earlier = await tx.claimRequest(principal, "Create", requestId, principal, expireTime);
      if (fail) throw new Error("no");
      await tx.rememberResponse(principal, "Create", requestId, Buffer.from([0, 255]));
      return earlier;
    });
    return value;
  };

  await expect(claim("operator", later, true)).rejects.toThrow("no");
  const outcomes = [await claim("operator", past), await claim("operator", later), await claim("web", later)];
  const taken = await claim("operator", later);

  expect(outcomes).toEqual([undefined, undefined, undefined]);
  expect(taken).toEqual({ hash: "operator", response: Buffer.from([0, 255]) });
});

test("the log is read backwards, newest first", async () => {
  const store = await startStore();
  for (const count of [1, 2, 3]) await append(store, count);

  const events = await store.events.readBefore(4n, 4);

  expect(events.map(({ revision, index }) => [revision, index])).toEqual([
    [3n, 2],
    [3n, 1],
    [3n, 0],
    [2n, 1],
  ]);
});

const anExit: InstanceExit = {
  reason: "signaled",
  code: undefined,
  signal: "SIGKILL",
  message: "",
  time: new Date("2026-01-02T03:04:05.678Z"),
  requested: false,
};

/** Without prototypes and members that are undefined, which JSON does not keep. */
function plain<T>(value: T): T {
  return JSON.parse(JSON.stringify(value)) as T;
}

function withoutUndefined({ expireTime, revokeTime, replacedBy }: Omit<NewToken, "digest">) {
  return { ...(expireTime && { expireTime }), ...(revokeTime && { revokeTime }), ...(replacedBy && { replacedBy }) };
}

const text = fc.string({ unit: "binary" }).map((value) => value.toWellFormed().replaceAll("\0", ""));
const time = fc.date({ min: new Date("1970-01-01"), max: new Date("9999-12-31"), noInvalidDate: true });
const count = fc.integer({ min: 0, max: 2_147_483_647 });
const uuid = fc.uuid();

function maybe<T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> {
  return fc.option(value, { nil: undefined });
}

function someExit(): fc.Arbitrary<InstanceExit> {
  return fc.record({
    reason: fc.constantFrom("exited", "signaled", "spawn_failed", "lost", "oom_killed"),
    code: maybe(count),
    signal: maybe(fc.constantFrom("SIGTERM", "SIGKILL")),
    message: text,
    time,
    requested: fc.boolean(),
  });
}

function aServiceStatus(): fc.Arbitrary<ServiceStatus> {
  return fc.record({
    state: fc.constantFrom("pending", "running", "crash_loop", "external"),
    ready: fc.boolean(),
    reason: text,
    message: text,
    observedGeneration: fc.maxSafeNat(),
    instanceId: maybe(uuid),
    pid: maybe(count),
    startTime: maybe(time),
    readyTime: maybe(time),
    lastExit: maybe(someExit()),
    restarts: fc.maxSafeNat(),
    failures: fc.maxSafeNat(),
    recentFailures: fc.array(time),
    nextStartTime: maybe(time),
    url: maybe(fc.webUrl()),
    published: fc.boolean(),
    transitionTime: time,
    readyTransitionTime: maybe(time),
    conditions: fc.array(someCondition()),
    waitingFor: fc.array(someWaiting()),
    replacement: maybe(someSideInstance()),
    retiring: maybe(someSideInstance()),
    failedGeneration: fc.maxSafeNat(),
    observedResets: fc.maxSafeNat(),
  });
}

function someCondition(): fc.Arbitrary<Condition> {
  const type = fc.constantFrom("limits_not_enforced", "update_failed", "output_at_risk");
  return fc.record({ type, message: text, since: time });
}

function someWaiting(): fc.Arbitrary<Waiting> {
  return fc.record({ service: text, condition: fc.constantFrom("started", "ready", "completed"), message: text });
}

function someSideInstance(): fc.Arbitrary<SideInstance> {
  return fc.record({
    instanceId: uuid,
    pid: maybe(count),
    generation: fc.maxSafeNat(),
    url: maybe(fc.webUrl()),
    startTime: time,
    isStopping: fc.boolean(),
    failure: text,
  });
}

function someInstance(): fc.Arbitrary<Partial<Instance>> {
  const process = fc.record({
    bootId: uuid,
    pid: count,
    startTime: fc.bigInt({ min: 0n, max: 2n ** 64n }).map(String),
  });
  const ending = fc.oneof(
    fc.record({ state: fc.constantFrom("created", "running", "stopping"), exit: fc.constant(undefined) }),
    fc.record({ state: fc.constant("ended" as const), exit: someExit() }),
  );
  const rest = fc.record({
    id: uuid,
    node: text,
    role: fc.constantFrom("current", "replacement", "retiring"),
    generation: fc.maxSafeNat(),
    process: maybe(process),
    pid: maybe(count),
    createTime: time,
    startTime: maybe(time),
    readyTime: maybe(time),
  });
  return fc.tuple(rest, ending).map(([some, how]) => ({ ...some, ...how }));
}

function someRoute(): fc.Arbitrary<Partial<Route>> {
  return fc.record({
    prefix: fc.webPath(),
    target: fc.webUrl(),
    state: fc.constantFrom("pending", "programmed", "degraded", "blocked", "removing"),
    generation: count,
    programmedGeneration: count,
    proxy: text,
    reason: text,
    message: text,
    transitionTime: time,
    confirmTime: maybe(time),
  });
}

function someToken(): fc.Arbitrary<Partial<NewToken>> {
  return fc.record({
    id: uuid,
    digest: fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes)),
    hint: text,
    scopes: fc.array(text),
    note: text,
    source: fc.constantFrom("issued", "supplied", "instance", "bootstrap"),
    createdBy: text,
    createTime: time,
    expireTime: maybe(time),
    revokeTime: maybe(time),
    replacedBy: maybe(uuid),
  });
}

function anEventBody(): fc.Arbitrary<EventBody> {
  const ofInstance = { instanceId: uuid, pid: maybe(count) };
  return fc.oneof(
    fc.record({ type: fc.constantFrom("service_created", "service_completed", "proxy_down", "server_started") }),
    fc.record({ type: fc.constant("service_updated" as const), paths: fc.array(text), restarts: fc.boolean() }),
    fc.record({ type: fc.constant("wish_changed" as const), wish: fc.constantFrom("running", "stopped", "deleted") }),
    fc.record({ type: fc.constant("instance_starting" as const), instanceId: uuid }),
    fc.record({
      type: fc.constantFrom("instance_started", "instance_ready", "instance_adopted", "instance_promoted"),
      ...ofInstance,
    }),
    fc.record({ type: fc.constant("instance_signalled" as const), instanceId: uuid, signal: fc.constant("SIGHUP") }),
    fc.record({ type: fc.constantFrom("condition_raised", "condition_cleared"), condition: someCondition() }),
    fc.record({ type: fc.constant("instance_exited" as const), ...ofInstance, exit: someExit() }),
    fc.record({
      type: fc.constantFrom("restart_scheduled", "crash_loop_entered"),
      attempt: fc.maxSafeNat(),
      nextStartTime: time,
    }),
    fc.record({ type: fc.constantFrom("token_issued", "token_revoked"), tokenId: uuid }),
    fc.record({ type: fc.constant("token_rotated" as const), tokenId: uuid, replacedBy: uuid }),
    fc
      .record({ type: fc.constantFrom("route_pending", "route_blocked", "route_removed"), some: someRoute() })
      .map(({ type, some }) => ({ type, route: aRoute(some) })),
  );
}
