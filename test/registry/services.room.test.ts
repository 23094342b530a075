import { randomUUID } from "node:crypto";
import { describe, expect, test } from "vitest";
import { etagOf } from "../../src/domain/service.ts";
import { call, caller, external, managed, operator, Registry } from "./workbench.ts";

const everything = () => true;
const listed = { pageSize: 0, pageToken: "", filter: "", visible: everything };

describe("creating a service", () => {
  test("makes it wished running, with one event, and returns it as it is stored", async () => {
    const { services, store, ...registry } = await Registry.start();

    const { service, revision } = await services.create(call(), {
      name: "web",
      spec: managed({ labels: { team: "a" } }),
    });

    expect(service).toMatchObject({ name: "web", wish: "running", generation: 1, version: 1, setName: "", revision });
    expect(service.status).toMatchObject({ state: "pending", ready: false });
    expect((await services.get("web")).service).toEqual(service);
    const [event, ...others] = await store.events.readAfter(0n, 100);
    expect(others).toEqual([]);
    expect(event).toMatchObject({
      body: { type: "service_created" },
      actor: "operator",
      revision,
      after: { name: "web" },
    });
    expect(registry.failures).toEqual([]);
  });

  test("is refused for a name that exists, also in another case, and names the one there is", async () => {
    const { services } = await Registry.start();
    await services.create(call(), { name: "web", spec: managed() });

    await expect(services.create(call(), { name: "web", spec: managed() })).rejects.toMatchObject({
      code: "already_exists",
      reason: "SERVICE_EXISTS",
    });
    await expect(services.create(call(), { name: "WEB", spec: managed() })).rejects.toMatchObject({
      message: expect.stringContaining('as "web"'),
    });
  });

  test("of two at once with one name lets one through", async () => {
    const { services } = await Registry.start();

    const outcomes = await Promise.allSettled(
      ["web", "Web", "WEB"].map((name) => services.create(call(), { name, spec: managed() })),
    );

    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect((await services.snapshot()).services).toHaveLength(1);
  });

  test.each([
    ["a bad name", "a b", managed(), "service_id"],
    ["no kind", "web", {}, "service.spec.kind"],
    ["an empty command", "web", { kind: { type: "managed" as const, command: [] } }, "service.spec.managed.command"],
    [
      "a program that is not there",
      "web",
      { kind: { type: "managed" as const, command: ["no-such"] } },
      "service.spec.managed.command",
    ],
    ["one of our own addresses", "web", external({ url: "http://127.0.0.1:7700" }), "service.spec.url"],
    ["a token that is too short", "web", external({ apiToken: "1234567" }), "service.spec.api_token"],
    [
      "a reserved variable",
      "web",
      managed({ environment: { JUPYTERHUB_API_TOKEN: "x" } }),
      'service.spec.managed.environment["JUPYTERHUB_API_TOKEN"]',
    ],
  ])("with %s is refused, names the field and leaves nothing", async (_, name, spec, field) => {
    const registry = await Registry.start();
    const before = await registry.remains();

    const refused = registry.services.create(call({ requestId: randomUUID() }), { name, spec });

    await expect(refused).rejects.toMatchObject({
      code: "invalid_argument",
      violations: [expect.objectContaining({ field })],
    });
    expect(await registry.remains()).toEqual(before);
  });

  test("names every field that is wrong at once", async () => {
    const { services } = await Registry.start();
    const spec = managed({ url: "ftp://h", apiToken: "short", oauthClientId: "x" });

    await expect(services.create(call(), { name: "web", spec })).rejects.toMatchObject({
      violations: ["url", "api_token", "oauth_client_id"].map((field) =>
        expect.objectContaining({ field: `service.spec.${field}` }),
      ),
    });
  });

  test("that only validates says what would be, and leaves nothing", async () => {
    const registry = await Registry.start();
    const before = await registry.remains();

    const would = await registry.services.create(call({ validateOnly: true, requestId: randomUUID() }), {
      name: "web",
      spec: managed({ apiToken: "only-12-long" }),
    });

    expect(would).toMatchObject({ revision: 0n, service: { name: "web" }, warnings: [expect.stringContaining("12")] });
    expect(await registry.remains()).toEqual(before);
  });
});

describe("listing services", () => {
  test("goes through all pages once, by name without regard to case", async () => {
    const { services } = await Registry.start();
    for (const name of ["b", "A", "d", "C", "e"]) await services.create(call(), { name, spec: external() });

    const names: string[] = [];
    let pageToken = "";
    do {
      const page = await services.list({ ...listed, pageSize: 2, pageToken });
      names.push(...page.services.map(({ name }) => name));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");

    expect(names).toEqual(["A", "b", "C", "d", "e"]);
  });

  test("shows only what matches and what the caller may see, in full pages", async () => {
    const { services } = await Registry.start();
    for (const name of ["a1", "b1", "a2", "b2", "a3"])
      await services.create(call(), { name, spec: external({ labels: { of: name.slice(0, 1) } }) });

    const page = await services.list({
      ...listed,
      pageSize: 2,
      filter: "labels.of = a",
      visible: ({ name }) => name !== "a1",
    });

    expect(page.services.map(({ name }) => name)).toEqual(["a2", "a3"]);
    expect(page.nextPageToken).toBe("");
  });

  test("refuses the page token of another list", async () => {
    const { services } = await Registry.start();
    for (const name of ["a", "b"]) await services.create(call(), { name, spec: external() });
    const { nextPageToken: pageToken } = await services.list({ ...listed, pageSize: 1 });

    await expect(services.list({ ...listed, pageToken, filter: "kind = external" })).rejects.toMatchObject({
      reason: "PAGE_TOKEN_INVALID",
    });
  });
});

describe("updating a service", () => {
  const update = { etag: "", paths: undefined, allowMissing: false };

  test("changes what the mask names and nothing else", async () => {
    const { services } = await Registry.start();
    await services.create(call(), { name: "web", spec: managed({ labels: { a: "1" }, environment: { A: "1" } }) });

    const { service } = await services.update(call(), {
      ...update,
      name: "web",
      paths: ["spec.labels"],
      spec: { labels: { b: "2" } },
    });

    expect(service.spec).toMatchObject({
      labels: { b: "2" },
      kind: { command: ["sleep", "1000"], environment: { A: "1" } },
    });
  });

  test("without a mask changes what is given", async () => {
    const { services } = await Registry.start();
    await services.create(call(), { name: "web", spec: managed({ labels: { a: "1" }, admin: true }) });

    const { service } = await services.update(call(), { ...update, name: "web", spec: { labels: { b: "2" } } });

    expect(service.spec).toMatchObject({ labels: { b: "2" }, admin: true });
  });

  test.each([
    ["its command", { kind: { type: "managed" as const, command: ["sleep", "5"] } }, ["spec.managed.command"]],
    ["its environment", managed({ environment: { A: "2" } }), ["spec.managed.environment"]],
    ["its url", { url: "http://127.0.0.1:0" }, ["spec.url"]],
    ["its api_token", { apiToken: "a-token-of-32-characters-or-more" }, ["spec.api_token"]],
  ])("of %s asks for a new process: the generation is raised", async (_, spec, paths) => {
    const registry = await Registry.start();
    const { services } = registry;
    await services.create(call(), { name: "web", spec: managed() });

    const { service } = await services.update(call(), { ...update, name: "web", paths, spec });

    expect(service).toMatchObject({ generation: 2, version: 2 });
    expect((await registry.events()).at(-1)?.body).toMatchObject({ type: "service_updated", paths, restarts: true });
  });

  test.each([
    ["labels", { labels: { a: "1" } }, "spec.labels"],
    ["info", { info: { a: 1 } }, "spec.info"],
    ["admin", { admin: true }, "spec.admin"],
    ["display", { display: false }, "spec.display"],
    [
      "the restart policy",
      { kind: { type: "managed" as const, command: [], restartPolicy: { mode: "never" as const } } },
      "spec.managed.restart_policy",
    ],
    ["the stop grace", { kind: { type: "managed" as const, command: [], stopGraceMs: 1 } }, "spec.managed.stop_grace"],
  ])("of %s leaves the process alone", async (_, spec, path) => {
    const { services } = await Registry.start();
    await services.create(call(), { name: "web", spec: managed() });

    const { service } = await services.update(call(), { ...update, name: "web", paths: [path], spec });

    expect(service).toMatchObject({ generation: 1, version: 2 });
  });

  test("that differs in nothing writes nothing", async () => {
    const registry = await Registry.start();
    const { service: before } = await registry.services.create(call(), { name: "web", spec: managed() });
    const remains = await registry.remains();

    const { service } = await registry.services.update(call(), {
      ...update,
      name: "web",
      paths: ["*"],
      spec: managed(),
    });

    expect(etagOf(service)).toBe(etagOf(before));
    expect(await registry.remains()).toEqual(remains);
  });

  test("of what an external service is for people keeps what is known of its state", async () => {
    const { services } = await Registry.start();
    const { service: before } = await services.create(call(), { name: "web", spec: external() });

    const { service: labelled } = await services.update(call(), {
      ...update,
      name: "web",
      spec: { labels: { a: "1" } },
    });
    const { service: moved } = await services.update(call(), {
      ...update,
      name: "web",
      spec: { url: "http://10.0.0.2:81" },
    });

    expect(labelled.status).toEqual(before.status);
    expect(moved.status).toMatchObject({ state: "external", url: "http://10.0.0.2:81" });
  });

  test("with the etag of before somebody else's change is aborted and changes nothing", async () => {
    const registry = await Registry.start();
    const { service: first } = await registry.services.create(call(), { name: "web", spec: managed() });
    await registry.services.update(call(), {
      ...update,
      name: "web",
      etag: etagOf(first),
      spec: { labels: { a: "1" } },
    });
    const before = await registry.remains();

    const late = registry.services.update(call(), {
      ...update,
      name: "web",
      etag: etagOf(first),
      spec: { labels: { a: "2" } },
    });

    await expect(late).rejects.toMatchObject({
      code: "aborted",
      reason: "ETAG_MISMATCH",
      metadata: { expected: etagOf(first) },
    });
    expect(await registry.remains()).toEqual(before);
  });

  test("of twenty at once with one etag lets one through", async () => {
    const { services } = await Registry.start();
    const { service } = await services.create(call(), { name: "web", spec: managed() });

    const outcomes = await Promise.allSettled(
      Array.from({ length: 20 }, (_, index) =>
        services.update(call(), {
          ...update,
          name: "web",
          etag: etagOf(service),
          spec: { labels: { n: String(index) } },
        }),
      ),
    );

    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect((await services.get("web")).service.version).toBe(2);
  });

  test("to another kind is refused", async () => {
    const { services } = await Registry.start();
    await services.create(call(), { name: "web", spec: managed() });

    await expect(
      services.update(call(), { ...update, name: "web", paths: ["*"], spec: external() }),
    ).rejects.toMatchObject({
      violations: [expect.objectContaining({ field: "service.spec.kind" })],
    });
  });

  test("of what cannot be changed is refused and says what can", async () => {
    const { services } = await Registry.start();
    await services.create(call(), { name: "web", spec: managed() });

    await expect(
      services.update(call(), { ...update, name: "web", paths: ["status"], spec: {} }),
    ).rejects.toMatchObject({
      violations: [{ field: "update_mask", description: expect.stringContaining("spec.labels") }],
    });
  });

  test("of a service that is missing is not found, or registers it where that is allowed", async () => {
    const { services } = await Registry.start();

    await expect(services.update(call(), { ...update, name: "web", spec: managed() })).rejects.toMatchObject({
      code: "not_found",
    });

    const { service } = await services.update(call(), { ...update, name: "web", spec: managed(), allowMissing: true });
    expect(service).toMatchObject({ name: "web", version: 1 });
  });
});

describe("deleting a service", () => {
  const remove = { etag: "", force: false, allowMissing: false };

  test("that nothing lives of removes it, with both events in one transaction", async () => {
    const registry = await Registry.start();
    const { service } = await registry.services.create(call(), { name: "web", spec: external() });

    const deleted = await registry.services.delete(call(), { ...remove, name: "web", etag: etagOf(service) });

    expect(deleted.service).toMatchObject({ name: "web", wish: "deleted", generation: 1 });
    expect(
      (await registry.events()).filter(({ revision }) => revision === deleted.revision).map(({ body }) => body.type),
    ).toEqual(["wish_changed", "service_deleted"]);
    await expect(registry.services.get("web")).rejects.toMatchObject({ code: "not_found" });
    expect(await registry.rows("SELECT * FROM services")).toEqual([]);
  });

  test("that is wished running needs force", async () => {
    const registry = await Registry.start();
    await registry.services.create(call(), { name: "web", spec: managed() });
    const before = await registry.remains();

    await expect(registry.services.delete(call(), { ...remove, name: "web" })).rejects.toMatchObject({
      reason: "SERVICE_RUNNING",
    });

    expect(await registry.remains()).toEqual(before);
    await registry.services.delete(call(), { ...remove, name: "web", force: true });
    await expect(registry.services.get("web")).rejects.toMatchObject({ code: "not_found" });
  });

  test("with an old etag is aborted", async () => {
    const { services } = await Registry.start();
    await services.create(call(), { name: "web", spec: external() });

    await expect(services.delete(call(), { ...remove, name: "web", etag: '"0-9"' })).rejects.toMatchObject({
      code: "aborted",
    });
  });

  test("that is missing is not found, or nothing where that is allowed", async () => {
    const registry = await Registry.start();

    await expect(registry.services.delete(call(), { ...remove, name: "web" })).rejects.toMatchObject({
      code: "not_found",
    });
    expect(await registry.services.delete(call(), { ...remove, name: "web", allowMissing: true })).toEqual({
      service: undefined,
      revision: 0n,
    });
    expect(await registry.eventTypes()).toEqual([]);
  });

  test("lets the name be taken by a service that is another", async () => {
    const { services } = await Registry.start();
    const { service: first } = await services.create(call(), { name: "web", spec: external() });
    await services.delete(call(), { ...remove, name: "web" });

    const { service: second } = await services.create(call(), { name: "web", spec: external() });

    expect(second.uid).not.toBe(first.uid);
    expect(etagOf(second)).not.toBe(etagOf(first));
  });
});

describe("wishing a service to run or not", () => {
  const web = { name: "web", etag: "" };

  test("raises the generation only when a new process is asked for", async () => {
    const registry = await Registry.start();
    const { services } = registry;
    await services.create(call(), { name: "web", spec: managed() });

    const started = await services.start(call(), web);
    const stopped = await services.stop(call(), web);
    const stoppedAgain = await services.stop(call(), web);
    const startedAgain = await services.start(call(), web);
    const restarted = await services.restart(call(), web);

    const seen = [started, stopped, stoppedAgain, startedAgain, restarted].map(({ service: { wish, generation } }) => [
      wish,
      generation,
    ]);
    expect(seen).toEqual([
      ["running", 1],
      ["stopped", 1],
      ["stopped", 1],
      ["running", 2],
      ["running", 3],
    ]);
    expect(await registry.eventTypes()).toEqual(["service_created", "wish_changed", "wish_changed", "wish_changed"]);
  });

  test("is refused for an external service, and for an old etag", async () => {
    const { services } = await Registry.start();
    await services.create(call(), { name: "web", spec: external() });
    await services.create(call(), { name: "worker", spec: managed() });

    await expect(services.restart(call(), web)).rejects.toMatchObject({ reason: "SERVICE_NOT_MANAGED" });
    await expect(services.restart(call(), { name: "worker", etag: '"x"' })).rejects.toMatchObject({ code: "aborted" });
  });
});

describe("applying a set", () => {
  const setOf = (...services: { name: string; spec: ReturnType<typeof managed> }[]) => ({
    services,
    setName: "demo",
    prune: false,
  });
  const actions = ({ changes }: { changes: readonly { name: string; action: string }[] }) =>
    changes.map(({ name, action }) => `${action} ${name}`);

  test("creates, updates and leaves alone, in the order of the list and in one revision", async () => {
    const registry = await Registry.start();
    const { services } = registry;
    await services.apply(call(), setOf({ name: "b", spec: managed() }, { name: "c", spec: external() }));

    const applied = await services.apply(
      call(),
      setOf(
        { name: "c", spec: external() },
        { name: "b", spec: managed({ labels: { a: "1" } }) },
        { name: "a", spec: managed() },
      ),
    );

    expect(actions(applied)).toEqual(["unchanged c", "update b", "create a"]);
    const events = (await registry.events()).filter(({ revision }) => revision === applied.revision);
    expect(events.map(({ body, service }) => `${body.type} ${service?.name}`)).toEqual([
      "service_created a",
      "service_updated b",
    ]);
  });

  test("is all or nothing", async () => {
    const registry = await Registry.start();
    const before = await registry.remains();

    const refused = registry.services.apply(
      call({ requestId: randomUUID() }),
      setOf({ name: "a", spec: managed({ apiToken: "12345678" }) }, { name: "b", spec: managed({ url: "ftp://x" }) }),
    );

    await expect(refused).rejects.toMatchObject({
      violations: [expect.objectContaining({ field: "services[1].spec.url" })],
    });
    expect(await registry.remains()).toEqual(before);
  });

  test("as a plan tells what it would do, restarts included, and leaves nothing", async () => {
    const registry = await Registry.start();
    const { services } = registry;
    await services.apply(call(), setOf({ name: "a", spec: managed() }, { name: "old", spec: external() }));
    const before = await registry.remains();
    const next = {
      ...setOf({ name: "a", spec: managed({ environment: { A: "1" } }) }, { name: "b", spec: external() }),
      prune: true,
    };

    const plan = await services.apply(call({ validateOnly: true }), next);

    expect(await registry.remains()).toEqual(before);
    expect(plan).toMatchObject({
      revision: 0n,
      changes: [{ paths: ["spec.managed.environment"], restarts: true }, {}, {}],
    });
    expect(actions(plan)).toEqual(["update a", "create b", "delete old"]);
    expect(actions(await services.apply(call(), next))).toEqual(actions(plan));
  });

  test("with prune deletes what the set has and the list has not, and nobody else's", async () => {
    const { services } = await Registry.start();
    await services.create(call(), { name: "alone", spec: external() });
    await services.apply(call(), { services: [{ name: "other", spec: external() }], setName: "other", prune: false });
    await services.apply(call(), setOf({ name: "a", spec: managed() }, { name: "b", spec: managed() }));

    const pruned = await services.apply(call(), {
      ...setOf({ name: "B", spec: managed() }),
      services: [{ name: "b", spec: managed() }],
      prune: true,
    });

    expect(actions(pruned)).toEqual(["unchanged b", "delete a"]);
    expect((await services.snapshot()).services.map(({ name }) => name)).toEqual(["alone", "b", "other"]);
  });

  test("to prune must name the set", async () => {
    const { services } = await Registry.start();

    await expect(services.apply(call(), { services: [], setName: "", prune: true })).rejects.toMatchObject({
      violations: [expect.objectContaining({ field: "set_name" })],
    });
  });

  test("takes over services of another set, and without a set leaves them where they are", async () => {
    const { services } = await Registry.start();
    const one = [{ name: "a", spec: external() }];
    await services.apply(call(), { services: one, setName: "first", prune: false });

    const without = await services.apply(call(), { services: one, setName: "", prune: false });
    const other = await services.apply(call(), { services: one, setName: "second", prune: false });

    expect(without.changes).toMatchObject([{ action: "unchanged", service: { setName: "first" } }]);
    expect(other.changes).toMatchObject([
      { action: "update", paths: [], service: { setName: "second", generation: 1 } },
    ]);
  });

  test("refuses a name that is listed twice, without regard to case", async () => {
    const { services } = await Registry.start();

    await expect(
      services.apply(call(), setOf({ name: "a", spec: external() }, { name: "A", spec: external() })),
    ).rejects.toMatchObject({
      violations: [expect.objectContaining({ field: "services[1].name" })],
    });
  });

  test("of two overlapping sets at once in opposite orders finishes both", async () => {
    const { services } = await Registry.start();
    const names = Array.from({ length: 10 }, (_, index) => `s${index}`);
    const labelled = (label: string) => names.map((name) => ({ name, spec: external({ labels: { label } }) }));
    await services.apply(call(), { services: labelled("0"), setName: "", prune: false });

    await Promise.all(
      Array.from({ length: 10 }, (_, round) => {
        const wanted = labelled(String(round));
        return services.apply(call(), {
          services: round % 2 === 0 ? wanted : wanted.toReversed(),
          setName: "",
          prune: false,
        });
      }),
    );

    const labels = new Set((await services.snapshot()).services.map(({ spec }) => spec.labels["label"]));
    expect(labels.size).toBe(1);
  });
});

describe("a request id", () => {
  test("answers a retry as the first time, with one effect", async () => {
    const registry = await Registry.start();
    const once = call({ requestId: randomUUID() });

    const first = await registry.services.create(once, { name: "web", spec: managed() });
    await registry.services.update(call(), {
      name: "web",
      etag: "",
      paths: undefined,
      allowMissing: false,
      spec: { labels: { a: "1" } },
    });
    const again = await registry.services.create(once, { name: "web", spec: managed() });

    expect(again).toEqual(first);
    expect(await registry.eventTypes()).toEqual(["service_created", "service_updated"]);
  });

  test("is remembered by every server of the store", async () => {
    const one = await Registry.start();
    const issue = { service: "", scopes: [], note: "", ttlMs: 60_000 };
    const once = call({ requestId: randomUUID() });
    const issued = await one.tokens.issue(once, issue);
    await one.stop();

    const another = await Registry.start({ on: one.database });

    expect(await another.tokens.issue(once, issue)).toEqual(issued);
    expect(another.authenticator.authenticate(issued.secret).tokenId).toBe(issued.token.id);
  });

  test("with another request is refused", async () => {
    const registry = await Registry.start();
    const requestId = randomUUID();
    await registry.services.create(call({ requestId, requestHash: "one" }), { name: "a", spec: managed() });
    const before = await registry.remains();

    const reused = registry.services.create(call({ requestId, requestHash: "other" }), { name: "b", spec: managed() });

    await expect(reused).rejects.toMatchObject({ code: "invalid_argument", reason: "REQUEST_ID_REUSED" });
    expect(await registry.remains()).toEqual(before);
  });

  test("of two calls at once has one effect and one answer", async () => {
    const registry = await Registry.start();
    const once = call({ requestId: randomUUID() });

    const answers = await Promise.all(
      Array.from({ length: 8 }, () => registry.services.create(once, { name: "web", spec: managed() })),
    );

    expect(new Set(answers.map(({ service, revision }) => `${service.uid} ${revision}`)).size).toBe(1);
    expect(await registry.eventTypes()).toEqual(["service_created"]);
  });

  test("belongs to its caller and its method", async () => {
    const registry = await Registry.start();
    const requestId = randomUUID();

    await registry.services.create(call({ requestId }), { name: "a", spec: external() });
    await registry.services.create(call({ requestId, principal: { ...operator, name: "other" } }), {
      name: "b",
      spec: external(),
    });
    await registry.services.create(call({ requestId, method: "/Other" }), { name: "c", spec: external() });

    expect((await registry.services.snapshot()).services).toHaveLength(3);
  });

  test("of a refused call may be used again", async () => {
    const { services } = await Registry.start();
    const requestId = randomUUID();
    await expect(services.create(call({ requestId }), { name: "web", spec: {} })).rejects.toMatchObject({
      code: "invalid_argument",
    });

    const { service } = await services.create(call({ requestId }), { name: "web", spec: managed() });

    expect(service.name).toBe("web");
  });

  test("is forgotten after a day", async () => {
    const { services, clock } = await Registry.start();
    const requestId = randomUUID();
    clock.move(-25 * 3_600_000);
    await services.create(call({ requestId, requestHash: "one" }), { name: "a", spec: external() });
    clock.move(25 * 3_600_000);

    const { service } = await services.create(call({ requestId, requestHash: "other" }), {
      name: "b",
      spec: external(),
    });

    expect(service.name).toBe("b");
  });
});

describe("an admin service", () => {
  test("is made only by who may do everything: its token may", async () => {
    const registry = await Registry.start();
    const limited = caller("admin:services");
    await registry.services.create(call(), { name: "plain", spec: managed() });
    await registry.services.create(call(), { name: "boss", spec: managed({ admin: true }) });
    const before = await registry.remains();
    const change = { etag: "", paths: undefined, allowMissing: false };

    const refused = await Promise.allSettled([
      registry.services.create(limited, { name: "x", spec: managed({ admin: true }) }),
      registry.services.update(limited, { ...change, name: "plain", spec: { admin: true } }),
      registry.services.update(limited, { ...change, name: "boss", spec: managed({ environment: { A: "1" } }) }),
      registry.services.apply(limited, {
        services: [{ name: "x", spec: managed({ admin: true }) }],
        setName: "",
        prune: false,
      }),
    ]);

    for (const each of refused)
      expect(each).toMatchObject({ reason: { code: "permission_denied", metadata: { scope: "*" } } });
    expect(await registry.remains()).toEqual(before);
  });

  test("may be listed unchanged, or made a plain one, by who may change services", async () => {
    const { services } = await Registry.start();
    await services.create(call(), { name: "boss", spec: managed({ admin: true }) });
    const limited = caller("admin:services");

    const same = await services.apply(limited, {
      services: [{ name: "boss", spec: managed({ admin: true }) }],
      setName: "",
      prune: false,
    });
    const { service } = await services.update(limited, {
      name: "boss",
      etag: "",
      paths: ["spec.admin"],
      spec: { admin: false },
      allowMissing: false,
    });

    expect(same.changes).toMatchObject([{ action: "unchanged" }]);
    expect(service.spec.admin).toBe(false);
  });
});
