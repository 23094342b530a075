import { create, type MessageInitShape, toJson } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import { FieldDifferenceSchema } from "../../gen/steward/v1/service_registry_pb.ts";
import type { Service } from "../../src/domain/service.ts";
import { parseServiceSpec, type ServiceSpecInput } from "../../src/domain/service-spec.ts";
import { differencesFor } from "../../src/rpc/convert-difference.ts";
import { anySpec, aService } from "./arbitrary.ts";
import { aCall } from "./call-context.ts";

const admin = aCall().principal;
const reader = aCall(["read:services"]).principal;

test("old and new value of each field are told, down to the entries of maps", () => {
  const before = web({ url: "http://10.0.0.1:8080", labels: { team: "a", "x.y": "1" }, info: { a: { b: [1] } } });
  const after = web({ url: "", admin: true, labels: { team: "b" }, info: { a: { b: [1, 2] } } });

  expect(shown(before, after)).toEqual([
    { path: "spec.admin", oldValue: false, newValue: true },
    { path: "spec.url", oldValue: "http://10.0.0.1:8080", newValue: "" },
    { path: "spec.info.a.b", oldValue: [1], newValue: [1, 2] },
    { path: "spec.labels.team", oldValue: "a", newValue: "b" },
    { path: 'spec.labels["x.y"]', oldValue: "1" },
  ]);
});

test("durations and policies are told as in JSON", () => {
  const managed = { type: "managed", command: ["a"] } as const;
  const before = web({ kind: managed });
  const after = web({
    kind: { ...managed, command: ["a", "b"], stopGraceMs: 1_500, restartPolicy: { maxRestarts: 3 } },
  });

  expect(shown(before, after)).toEqual([
    { path: "spec.managed.command", oldValue: ["a"], newValue: ["a", "b"] },
    { path: "spec.managed.restart_policy.max_restarts", newValue: 3 },
    { path: "spec.managed.stop_grace", oldValue: "10s", newValue: "1.500s" },
  ]);
});

test("the environment is shown to those only who may read it", () => {
  const environment = (variables: Record<string, string>) =>
    web({ kind: { type: "managed", command: ["a"], environment: variables } });
  const [before, after] = [
    environment({ PASSWORD: "old-one", KEPT: "x" }),
    environment({ PASSWORD: "new-one", KEPT: "x" }),
  ];

  expect(shown(before, after)).toEqual([
    { path: 'spec.managed.environment["PASSWORD"]', oldValue: "old-one", newValue: "new-one" },
  ]);
  expect(shown(before, after, { as: reader })).toEqual([{ path: "spec.managed.environment", hidden: true }]);
});

test("of the api_token it is told only that it differs", () => {
  const [before, after] = [web({}), web({ apiToken: "a-token-of-the-operator" })];

  expect(shown(before, after, { paths: ["spec.api_token"] })).toEqual([{ path: "spec.api_token", hidden: true }]);
});

test("a service that changes its set says so, and one that is new has no differences", () => {
  const service = web({});

  expect(shown(service, { ...service, setName: "mine" })).toEqual([
    { path: "set_name", oldValue: "", newValue: "mine" },
  ]);
  expect(differencesFor(admin, { service, paths: [] })).toEqual([]);
});

test("whatever two specs, they differ in the paths that are told, and equal ones in none", () => {
  fc.assert(
    fc.property(anySpec(), anySpec(), (one, other) => {
      const [before, after] = [aService({ name: "web", spec: one }), aService({ name: "web", spec: other })];

      expect(shown(before, before)).toEqual([]);
      const there = shown(before, after);
      const back = shown(after, before);
      expect(back).toHaveLength(there.length);
      for (const { path, oldValue, newValue } of there) {
        expect(oldValue).not.toEqual(newValue);
        expect(back).toContainEqual(whole({ path, oldValue: newValue, newValue: oldValue }));
      }
    }),
  );
});

function web(input: ServiceSpecInput): Service {
  const rules = { forbidden: [], field: "spec" };
  const { spec } = parseServiceSpec("web", { kind: { type: "external" }, ...input }, rules);
  return aService({ name: "web", spec });
}

function shown(before: Service, service: Service, { as = admin, paths = [] as string[] } = {}) {
  return differencesFor(as, { before, service, paths }).map(asJson);
}

function asJson(difference: MessageInitShape<typeof FieldDifferenceSchema>) {
  return toJson(FieldDifferenceSchema, create(FieldDifferenceSchema, difference)) as {
    path: string;
    oldValue?: unknown;
    newValue?: unknown;
  };
}

function whole(difference: Record<string, unknown>) {
  return Object.fromEntries(Object.entries(difference).filter(([, value]) => value !== undefined));
}
