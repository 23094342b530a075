import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import type { Event } from "../../src/domain/event.ts";
import { eventFilter } from "../../src/domain/filter.ts";
import type { Call } from "../../src/registry/call.ts";
import { call, external, managed, operator, Registry } from "./workbench.ts";

const tokenId = randomUUID();
const peer = "192.0.2.7:40000";

/** Every change that a client can ask for, on services that are there. */
const changes: Readonly<Record<string, (registry: Registry, by: Call) => Promise<unknown>>> = {
  Create: ({ services }, by) => services.create(by, { name: "new", spec: external({ apiToken: "a-supplied-token" }) }),
  Update: ({ services }, by) =>
    services.update(by, {
      name: "web",
      spec: { display: false },
      etag: "",
      paths: ["spec.display"],
      allowMissing: false,
    }),
  Rollback: async ({ services }, by) => {
    await services.update(call(), {
      name: "web",
      spec: { admin: true },
      etag: "",
      paths: undefined,
      allowMissing: false,
    });
    const { revisions } = await services.revisions({ name: "web", pageSize: 0, pageToken: "" });
    return services.rollBack(by, { name: "web", etag: "", revision: revisions.at(-1)?.revision ?? 0n });
  },
  Apply: ({ services }, by) =>
    services.apply(by, { services: [{ name: "new", spec: external() }], setName: "", prune: false }),
  Delete: ({ services }, by) => services.delete(by, { name: "web", etag: "", force: true, allowMissing: false }),
  Stop: ({ services }, by) => services.stop(by, { name: "web", etag: "" }),
  Restart: ({ services }, by) => services.restart(by, { name: "web", etag: "" }),
  Reset: ({ services }, by) => services.reset(by, { name: "web", etag: "" }),
  StopAll: ({ services }, by) => services.stopAll(by, { filter: "" }),
  Signal: ({ services }, by) => services.signal(by, { name: "web", etag: "", signal: "SIGHUP", instanceId: undefined }),
  IssueToken: ({ tokens }, by) => tokens.issue(by, { service: "web", scopes: [], note: "", ttlMs: undefined }),
  RotateToken: async ({ tokens }, by) => {
    const issued = await tokens.issue(call(), { service: "", scopes: [], note: "", ttlMs: undefined });
    return tokens.rotate(by, { tokenId: issued.token.id, overlapMs: undefined });
  },
  RevokeToken: async ({ tokens }, by) => {
    const issued = await tokens.issue(call(), { service: "", scopes: [], note: "", ttlMs: undefined });
    return tokens.revoke(by, { tokenId: issued.token.id });
  },
};

test.each(Object.keys(changes))(
  "the events of %s tell who asked, with which token, from where and with which request",
  async (name) => {
    const registry = await Registry.start();
    await registry.services.create(call(), { name: "web", spec: managed() });
    const requestId = randomUUID();
    const by = call({ principal: { ...operator, name: "deployer", tokenId }, peer, requestId });

    await changes[name]?.(registry, by);

    const caused = (await registry.events()).filter(({ requestId: id }) => id === requestId);
    expect(caused.length).toBeGreaterThan(0);
    for (const event of caused) expect(event).toMatchObject({ actor: "deployer", caller: { tokenId, peer } });
    const found = (filter: string, events: readonly Event[]) => events.filter(eventFilter(filter));
    for (const filter of [`token_id = ${tokenId}`, `peer = "192.0.2.7:*"`, "actor = deployer"])
      expect(found(filter, await registry.events()), filter).toEqual(caused);
  },
);

test.each(Object.keys(changes))("%s that only validates leaves nothing, and sends nothing", async (name) => {
  const registry = await Registry.start();
  await registry.services.create(call(), { name: "web", spec: managed() });
  const requestId = randomUUID();

  await changes[name]?.(registry, call({ requestId, validateOnly: true }));

  expect((await registry.events()).filter(({ requestId: id }) => id === requestId)).toEqual([]);
  expect(await registry.rows("SELECT FROM requests")).toEqual([]);
  expect(registry.signals).toEqual([]);
});

test("what Steward does by itself has no caller", async () => {
  const registry = await Registry.start();

  await registry.tokens.bootstrap();

  expect(await registry.events()).toMatchObject([{ actor: "steward", caller: undefined }]);
  expect((await registry.events()).filter(eventFilter("token_id : * OR peer : *"))).toEqual([]);
});
