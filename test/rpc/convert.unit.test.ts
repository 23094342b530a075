import { create, type DescEnum, fromBinary, fromJson, toBinary, toJson } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EventSchema, EventTypeSchema } from "../../gen/steward/v1/event_pb.ts";
import { InstanceExitReasonSchema, InstanceStateSchema } from "../../gen/steward/v1/instance_pb.ts";
import { RouteStateSchema } from "../../gen/steward/v1/route_pb.ts";
import {
  RestartModeSchema,
  ServiceSchema,
  ServiceSpecSchema,
  ServiceStateSchema,
  WishSchema,
} from "../../gen/steward/v1/service_pb.ts";
import { ApplyActionSchema, ServiceChangeTypeSchema } from "../../gen/steward/v1/service_registry_pb.ts";
import { LogStreamSchema, WaitConditionSchema } from "../../gen/steward/v1/supervisor_pb.ts";
import { TokenSourceSchema, TokenStateSchema } from "../../gen/steward/v1/token_pb.ts";
import { AppError } from "../../src/domain/errors.ts";
import type { EventBody } from "../../src/domain/event.ts";
import type { Principal } from "../../src/domain/principal.ts";
import { parseServiceSpec } from "../../src/domain/service-spec.ts";
import type { InstanceExit } from "../../src/domain/status.ts";
import { eventToProto, eventTypes, eventTypesFromProto } from "../../src/rpc/convert-event.ts";
import { exitReasons, instanceStates, instanceToProto } from "../../src/rpc/convert-instance.ts";
import { routeStates } from "../../src/rpc/convert-route.ts";
import { serviceFor, serviceStates, serviceToProto, wishes } from "../../src/rpc/convert-service.ts";
import { restartModes, specFromProto, specToProto } from "../../src/rpc/convert-spec.ts";
import { tokenSources, tokenStates, tokenToProto } from "../../src/rpc/convert-token.ts";
import { applyActions } from "../../src/rpc/service-registry.ts";
import { logStreams } from "../../src/rpc/supervisor.ts";
import { waitConditions } from "../../src/rpc/wait-condition.ts";
import { changeTypes } from "../../src/rpc/watch-services.ts";
import { anEvent, anySpec, aRoute, aService, aStatus } from "./arbitrary.ts";

const rules = { forbidden: [], field: "service.spec" };

test("whatever a spec says, it is the same after a way through its message, in binary and in JSON", () => {
  fc.assert(
    fc.property(anySpec(), (spec) => {
      const message = specToProto(spec, { environment: true });
      const overBinary = fromBinary(ServiceSpecSchema, toBinary(ServiceSpecSchema, message));
      const overJson = fromJson(ServiceSpecSchema, JSON.parse(JSON.stringify(toJson(ServiceSpecSchema, message))));

      for (const arrived of [overBinary, overJson]) {
        expect(parseServiceSpec("web", specFromProto(arrived, rules.field), rules).spec).toEqual({
          ...spec,
          apiTokenSet: false,
        });
      }
    }),
  );
});

test("what a client leaves out stays left out, so that defaults can apply", () => {
  const message = create(ServiceSpecSchema, {
    kind: { case: "managed", value: { command: ["run"], restartPolicy: {} } },
  });

  const { kind, apiToken, info, display } = specFromProto(message, rules.field);

  expect(kind).toMatchObject({
    stopGraceMs: undefined,
    readinessTimeoutMs: undefined,
    minReadyMs: undefined,
    restartPolicy: { mode: undefined, baseDelayMs: undefined, maxRestarts: undefined },
  });
  expect([apiToken, info, display]).toEqual([undefined, undefined, undefined]);
  expect(specFromProto(undefined, rules.field)).toEqual({});
});

test("an api_token goes in and never comes out", () => {
  const secret = "a-secret-of-the-operator";
  const input = specFromProto(
    create(ServiceSpecSchema, { apiToken: secret, kind: { case: "external", value: {} } }),
    rules.field,
  );
  const { spec } = parseServiceSpec("web", input, rules);

  const shown = specToProto(spec, { environment: true });

  expect(input.apiToken).toBe(secret);
  expect(shown.apiTokenSet).toBe(true);
  expect(JSON.stringify(toJson(ServiceSpecSchema, shown))).not.toContain(secret);
});

test.each([Number.NaN, Number.POSITIVE_INFINITY])("%s in info is refused: it would arrive as null", (number) => {
  const spec = create(ServiceSpecSchema, { info: { deep: [{ number }] } });

  expect(() => specFromProto(spec, "services[3].spec")).toThrow(/^services\[3\]\.spec\.info:/);
});

test("environment values are shown to those who may read them, and to nobody else", () => {
  const service = aService({ name: "web" });
  const reader = aPrincipal("read:services", "read:services:environment!service=web");
  const other = aPrincipal("read:services", "read:services:environment!service=db");

  const shown = serviceFor(reader, service).spec?.kind;
  const hidden = serviceFor(other, service).spec?.kind;

  expect(shown?.case === "managed" && shown.value.environment).toEqual({ COLOUR: "green" });
  expect(hidden?.case === "managed" && hidden.value.environment).toEqual({});
});

test("a service is shown whole: status, route, exit and etag", () => {
  const lastExit: InstanceExit = {
    reason: "signaled",
    code: undefined,
    signal: "SIGKILL",
    message: "",
    time: new Date(0),
    requested: false,
  };
  const service = aService({
    name: "web",
    route: aRoute(),
    status: aStatus({ state: "crash_loop", reason: "CRASH_LOOP", lastExit, restarts: 6, pid: undefined }),
  });

  const shown = toJson(ServiceSchema, serviceToProto(service, { environment: false }));

  expect(shown).toMatchObject({
    name: "web",
    etag: '"uid-of-w-1"',
    wish: "WISH_RUNNING",
    status: {
      state: "SERVICE_STATE_CRASH_LOOP",
      reason: "CRASH_LOOP",
      restarts: 6,
      lastExit: { reason: "INSTANCE_EXIT_REASON_SIGNALED", signal: "SIGKILL" },
      route: { state: "ROUTE_STATE_PROGRAMMED", prefix: "/services/web/" },
    },
  });
  expect(JSON.stringify(shown)).not.toContain('"code"');
});

test("an ended instance has no pid any more", () => {
  const instance = {
    id: "i",
    service: "web",
    serviceUid: "u",
    generation: 1,
    node: "n",
    role: "current" as const,
    process: undefined,
    pid: 4711,
    createTime: new Date(0),
    startTime: undefined,
    readyTime: undefined,
    exit: undefined,
  };

  expect(instanceToProto({ ...instance, state: "running" }).pid).toBe(4711);
  expect(instanceToProto({ ...instance, state: "ended" }).pid).toBe(0);
});

test("a token's state is that of the moment it is shown", () => {
  const token = {
    ...{ id: "t", service: undefined, hint: "sts_abcd", scopes: ["inherit"], note: "", source: "issued" as const },
    ...{ createdBy: "operator", createTime: new Date(0), expireTime: new Date(1_000), revokeTime: undefined },
    ...{ lastUsedTime: undefined, replacedBy: undefined },
  };

  expect(tokenToProto(token, new Date(999)).state).toBe(tokenStates.active);
  expect(tokenToProto(token, new Date(1_000)).state).toBe(tokenStates.expired);
  expect(tokenToProto({ ...token, revokeTime: new Date(500) }, new Date(600)).state).toBe(tokenStates.revoked);
});

describe("events", () => {
  const cases: readonly (readonly [EventBody, string | undefined])[] = [
    [{ type: "service_updated", paths: ["spec.url"], restarts: true }, "update"],
    [{ type: "wish_changed", wish: "stopped" }, "wish"],
    [{ type: "instance_started", instanceId: "i", pid: 12 }, "instance"],
    [{ type: "restart_scheduled", attempt: 2, nextStartTime: new Date(0) }, "restart"],
    [{ type: "route_programmed", route: aRoute() }, "route"],
    [{ type: "token_rotated", tokenId: "a", replacedBy: "b" }, "token"],
    [{ type: "proxy_up" }, undefined],
    [{ type: "routes_reconciled" }, undefined],
  ];

  test.each(cases.map(([body, payload]) => ({ type: body.type, body, payload })))(
    "$type carries what is known of it",
    ({ body, payload }) => {
      const shown = eventToProto(anEvent(7n, aService({ name: "web" }), body), undefined);

      expect(shown.type).toBe(eventTypes[body.type]);
      expect(shown.payload.case).toBe(payload);
      expect(fromBinary(EventSchema, toBinary(EventSchema, shown))).toEqual(shown);
    },
  );

  test("types that nobody knows are refused, naming the place", () => {
    const refused = () => eventTypesFromProto([eventTypes.proxy_up, 0, eventTypes.proxy_down], "types");

    expect(refused).toThrow(AppError);
    expect(refused).toThrow(/types\[1\]/);
  });
});

describe("every value of an enum has one word, and every word one value", () => {
  const tables: readonly (readonly [DescEnum, Readonly<Record<string, number>>])[] = [
    [WishSchema, wishes],
    [ServiceStateSchema, serviceStates],
    [RestartModeSchema, restartModes],
    [InstanceStateSchema, instanceStates],
    [InstanceExitReasonSchema, exitReasons],
    [RouteStateSchema, routeStates],
    [TokenSourceSchema, tokenSources],
    [TokenStateSchema, tokenStates],
    [EventTypeSchema, eventTypes],
    [ApplyActionSchema, applyActions],
    [ServiceChangeTypeSchema, changeTypes],
    [LogStreamSchema, logStreams],
    [WaitConditionSchema, waitConditions],
  ];

  test.each(tables.map(([schema, table]) => ({ name: schema.name, schema, table })))("$name", ({ schema, table }) => {
    const prefix = schema.sharedPrefix ?? "";
    const inProto = schema.values
      .filter(({ number }) => number !== 0)
      .map(({ name, number }) => [name.toLowerCase(), number]);

    expect(
      Object.entries(table)
        .map(([word, number]): [string, number] => [`${prefix}${word}`, number])
        .toSorted(bySpelling),
    ).toEqual(inProto.toSorted(bySpelling));
  });
});

function aPrincipal(...scopes: string[]): Principal {
  return {
    kind: "operator",
    name: "operator",
    serviceUid: undefined,
    tokenId: "t",
    tokenExpireTime: undefined,
    scopes,
  };
}

function bySpelling(one: unknown, other: unknown): number {
  return String(one) < String(other) ? -1 : 1;
}
