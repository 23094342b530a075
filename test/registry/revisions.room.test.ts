import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { etagOf } from "../../src/domain/service.ts";
import { call, caller, external, managed, operator, Registry } from "./workbench.ts";

const all = { name: "web", pageSize: 0, pageToken: "" };

test("every spec that a service had is listed, newest first, with who changed what", async () => {
  const { services } = await Registry.start();
  const created = await services.create(call(), { name: "web", spec: managed({ labels: { n: "1" } }) });
  await label(services, "2", call({ principal: { ...operator, name: "deployer" } }));
  await services.stop(call(), { name: "web", etag: "" });

  const { revisions, nextPageToken } = await services.revisions(all);

  expect(revisions.map(({ actor, paths, spec }) => [actor, paths, spec.labels["n"]])).toEqual([
    ["deployer", ["spec.labels"], "2"],
    ["operator", [], "1"],
  ]);
  expect(revisions[1]).toMatchObject({ revision: created.revision, spec: created.service.spec });
  expect(revisions[1]?.time.getTime()).toBeCloseTo(created.service.createTime.getTime(), -4);
  expect(nextPageToken).toBe("");
});

test("revisions come in pages, and at least the last 20 are kept", async () => {
  const { services } = await Registry.start();
  await services.create(call(), { name: "web", spec: external() });
  for (let n = 1; n <= 60; n++) await label(services, String(n));

  const labels: (string | undefined)[] = [];
  let pageToken = "";
  do {
    const page = await services.revisions({ ...all, pageSize: 16, pageToken });
    labels.push(...page.revisions.map(({ spec }) => spec.labels["n"]));
    pageToken = page.nextPageToken;
  } while (pageToken !== "");

  expect(labels.length).toBeGreaterThanOrEqual(20);
  expect(labels).toEqual(labels.map((_, index) => String(60 - index)));
});

test("a change of the set alone, and one that only validates, leave no revision; a service that is gone has none", async () => {
  const registry = await Registry.start();
  const { services } = registry;
  await services.create(call(), { name: "web", spec: external() });
  await services.apply(call(), { services: [{ name: "web", spec: external() }], setName: "mine", prune: false });
  await label(services, "1", call({ validateOnly: true }));

  expect((await services.revisions(all)).revisions).toHaveLength(1);

  await services.delete(call(), { name: "web", etag: "", force: true, allowMissing: false });
  await expect(services.revisions(all)).rejects.toMatchObject({ reason: "SERVICE_NOT_FOUND" });
  expect(await registry.rows("SELECT FROM spec_revisions")).toEqual([]);
});

test("a rollback is an update like any other, with its own event and its own revision", async () => {
  const { services, store } = await Registry.start();
  const first = await services.create(call(), { name: "web", spec: managed({ labels: { n: "1" }, display: false }) });
  await services.update(call(), {
    ...{ name: "web", etag: "", allowMissing: false, paths: ["*"] },
    spec: { kind: { type: "managed", command: ["sleep", "2000"] }, labels: { n: "2" } },
  });

  const rolledBack = await services.rollBack(call(), { name: "web", etag: "", revision: first.revision });

  expect(rolledBack.service.spec).toEqual(first.service.spec);
  expect(rolledBack).toMatchObject({ restarts: true, service: { generation: 3, version: 3 } });
  expect(rolledBack.before?.spec.labels).toEqual({ n: "2" });
  const paths = ["spec.display", "spec.labels", "spec.managed.command"];
  const last = (await store.events.readAfter(0n, 100)).at(-1);
  expect(last).toMatchObject({
    body: { type: "service_updated", paths, restarts: true, rolledBackTo: first.revision },
    revision: rolledBack.revision,
    message: expect.stringContaining(`rolled back to revision ${first.revision}`),
  });
  const { revisions } = await services.revisions(all);
  expect(revisions.map(({ spec }) => spec.labels["n"])).toEqual(["1", "2", "1"]);
});

test("a rollback to the spec that is there changes nothing", async () => {
  const { services } = await Registry.start();
  const { service, revision } = await services.create(call(), { name: "web", spec: external() });

  const rolledBack = await services.rollBack(call(), { name: "web", etag: etagOf(service), revision });

  expect(rolledBack).toMatchObject({ revision, paths: [], service: { version: 1 } });
});

test("a rollback leaves the api_token as it is: what was replaced, perhaps because it leaked, does not come back", async () => {
  const registry = await Registry.start();
  const { services, authenticator } = registry;
  const { revision } = await services.create(call(), { name: "web", spec: external({ apiToken: "the-first-token" }) });
  const change = { name: "web", etag: "", allowMissing: false, paths: undefined };
  await services.update(call(), { ...change, spec: { apiToken: "the-second-token", labels: { n: "2" } } });

  const rolledBack = await services.rollBack(call(), { name: "web", etag: "", revision });

  expect(rolledBack.paths).toEqual(["spec.labels"]);
  expect(authenticator.authenticate("the-second-token").name).toBe("web");
  expect(() => authenticator.authenticate("the-first-token")).toThrow("revoked");
});

test("a rollback is refused for a revision that is not its own, an old etag, and who may not make it what it was", async () => {
  const registry = await Registry.start();
  const { services } = registry;
  const admin = await services.create(call(), { name: "web", spec: external({ admin: true }) });
  const other = await services.create(call(), { name: "other", spec: external() });
  await services.update(call(), {
    ...{ name: "web", etag: "", allowMissing: false, paths: ["spec.admin"] },
    spec: { admin: false },
  });
  const before = await registry.remains();
  const to = { name: "web", etag: "", revision: admin.revision };

  await expect(services.rollBack(call(), { ...to, revision: other.revision })).rejects.toMatchObject({
    code: "not_found",
    reason: "REVISION_NOT_FOUND",
  });
  await expect(services.rollBack(call(), { ...to, etag: etagOf(admin.service) })).rejects.toMatchObject({
    reason: "ETAG_MISMATCH",
  });
  await expect(services.rollBack(caller("admin:services"), to)).rejects.toMatchObject({ reason: "SCOPE_MISSING" });
  await expect(services.rollBack(call(), { ...to, name: "none" })).rejects.toMatchObject({
    reason: "SERVICE_NOT_FOUND",
  });
  expect(await registry.remains()).toEqual(before);
});

test("a rollback to what this host can no longer run is refused and names the field", async () => {
  const registry = await Registry.start();
  const { services } = registry;
  const { revision } = await services.create(call(), { name: "web", spec: managed() });
  await services.update(call(), {
    ...{ name: "web", etag: "", allowMissing: false, paths: ["spec.managed.command"] },
    spec: { kind: { type: "managed", command: ["true"] } },
  });
  await registry.rows(
    `UPDATE spec_revisions SET spec = jsonb_set(spec, '{kind,command}', '["no-such-program"]') WHERE revision = ${revision}`,
  );

  await expect(services.rollBack(call(), { name: "web", etag: "", revision })).rejects.toMatchObject({
    violations: [{ field: "spec.managed.command" }],
  });
});

test("a rollback that is sent again is answered the same and done once", async () => {
  const { services } = await Registry.start();
  const { revision } = await services.create(call(), { name: "web", spec: external({ labels: { n: "1" } }) });
  await label(services, "2");
  const retried = call({ requestId: randomUUID() });

  const first = await services.rollBack(retried, { name: "web", etag: "", revision });
  const again = await services.rollBack(retried, { name: "web", etag: "", revision });

  expect(again).toEqual(first);
  expect((await services.revisions(all)).revisions).toHaveLength(3);
});

function label(services: Registry["services"], n: string, by = call()): Promise<unknown> {
  const change = { name: "web", etag: "", allowMissing: false, paths: ["spec.labels"] };
  return services.update(by, { ...change, spec: { labels: { n } } });
}
