import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { call, external, managed, Registry } from "./workbench.ts";

const hangUp = { name: "web", etag: "", signal: "SIGHUP", instanceId: undefined } as const;

test("a signal is sent and recorded, with its instance", async () => {
  const { services, ...registry } = await Registry.start();
  await services.create(call(), { name: "web", spec: managed() });

  const sent = await services.signal(call(), hangUp);

  expect(registry.signals).toEqual(["SIGHUP"]);
  expect((await registry.store.events.readAfter(0n, 100)).at(-1)).toMatchObject({
    body: { type: "instance_signalled", instanceId: sent.instanceId, signal: "SIGHUP" },
    revision: sent.revision,
  });
});

test("a signal that is asked for again is sent once", async () => {
  const registry = await Registry.start();
  const { services } = registry;
  await services.create(call(), { name: "web", spec: managed() });
  const retried = call({ requestId: randomUUID() });

  const first = await services.signal(retried, hangUp);
  const again = await services.signal(retried, hangUp);

  expect(again).toEqual(first);
  expect(registry.signals).toEqual(["SIGHUP"]);
});

test("a signal is not sent to what is not ours, is not there or is not as the caller knows it", async () => {
  const registry = await Registry.start();
  const { services } = registry;
  await services.create(call(), { name: "web", spec: managed() });
  await services.create(call(), { name: "elsewhere", spec: external() });

  await expect(services.signal(call(), { ...hangUp, etag: '"old"' })).rejects.toMatchObject({
    reason: "ETAG_MISMATCH",
  });
  await expect(services.signal(call(), { ...hangUp, name: "elsewhere" })).rejects.toMatchObject({
    reason: "SERVICE_NOT_MANAGED",
  });
  await expect(services.signal(call(), { ...hangUp, name: "none" })).rejects.toMatchObject({
    reason: "SERVICE_NOT_FOUND",
  });
  expect(registry.signals).toEqual([]);
});
