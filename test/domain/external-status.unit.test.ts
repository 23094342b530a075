import { expect, test } from "vitest";
import { externalProbe, externalStatus, found } from "../../src/domain/external-status.ts";
import type { ServiceSpec } from "../../src/domain/service.ts";
import { parseServiceSpec, type ServiceSpecInput } from "../../src/domain/service-spec.ts";

const now = new Date(1_000);
const later = new Date(2_000);
const specOf = (input: ServiceSpecInput): ServiceSpec =>
  parseServiceSpec("mail", input, { forbidden: [], field: "spec" }).spec;
const plain = specOf({ url: "http://mail.example:80", kind: { type: "external" } });
const silent = specOf({ kind: { type: "external" } });
const probed = specOf({
  url: "http://mail.example:80",
  kind: { type: "external", probe: { action: { kind: "tcp", port: undefined }, periodMs: 1_000 } },
});

test("one with a url is asked over HTTP every 60 s, unless its spec says otherwise; one without is not asked", () => {
  expect(externalProbe(plain)).toMatchObject({ action: { kind: "http" }, periodMs: 60_000, failureThreshold: 1 });
  expect(externalProbe(probed)).toMatchObject({ action: { kind: "tcp" }, periodMs: 1_000 });
  expect(externalProbe(silent)).toBeUndefined();
});

test("it is neither up nor down before it was found so", () => {
  expect(externalStatus(plain, undefined, now)).toMatchObject({ state: "external", ready: false, reason: "" });
});

test("a change is told once, with its time, and leaves the route alone", () => {
  const status = externalStatus(plain, undefined, now);

  const down = found(status, { isUp: false, message: "it answers 503" }, now);
  expect(down?.status).toMatchObject({ ready: false, reason: "DOWN", message: "it answers 503", published: true });
  expect(down?.status.readyTransitionTime).toEqual(now);
  expect(down?.events).toEqual([{ body: { type: "service_down" }, message: "found down: it answers 503" }]);
  const again = down && found(down.status, { isUp: false, message: "no answer" }, later);
  expect(again).toBeUndefined();

  const up = down && found(down.status, { isUp: true, message: "it answers 200" }, later);
  expect(up?.status).toMatchObject({ ready: true, reason: "UP", message: "", readyTransitionTime: later });
  expect(up?.events[0]?.body.type).toBe("service_up");
});

test("what was found stays known while it is asked at the same address", () => {
  const status = found(externalStatus(plain, undefined, now), { isUp: true, message: "" }, now)?.status;
  if (status === undefined) throw new Error("nothing changed");
  const before = { spec: plain, status };

  expect(externalStatus(probed, before, later)).toEqual(status);
  expect(externalStatus(specOf({ url: "http://other:1", kind: { type: "external" } }), before, later)).toMatchObject({
    ready: false,
    reason: "",
    url: "http://other:1",
  });
  expect(externalStatus(silent, { ...before, spec: silent }, later)).toMatchObject({ ready: false, published: false });
});
