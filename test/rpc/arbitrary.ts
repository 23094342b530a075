import fc from "fast-check";
import type { Event, EventBody } from "../../src/domain/event.ts";
import type { Route } from "../../src/domain/route.ts";
import type { JsonValue, Service, ServiceSpec } from "../../src/domain/service.ts";
import { parseServiceSpec, reservedEnvironment, type ServiceSpecInput } from "../../src/domain/service-spec.ts";
import { blankStatus, type ServiceStatus } from "../../src/domain/status.ts";

/** Any spec that a client may write and the domain accepts. */
export function anySpec(name = "web"): fc.Arbitrary<ServiceSpec> {
  return anySpecInput().map((input) => parseServiceSpec(name, input, { forbidden: [], field: "service.spec" }).spec);
}

function anySpecInput(): fc.Arbitrary<ServiceSpecInput> {
  return fc.record(
    {
      kind: fc.oneof(fc.constant({ type: "external" } as const), anyManaged()),
      admin: fc.boolean(),
      url: fc.integer({ min: 1, max: 65_535 }).map((port) => `http://10.0.0.1:${port}`),
      oauthClientId: fc.constant("service-other"),
      oauthNoConfirm: fc.boolean(),
      info: fc.dictionary(fc.string().filter(isPlainKey), anyJson(), { maxKeys: 4 }),
      display: fc.boolean(),
      labels: fc.dictionary(fc.stringMatching(/^[A-Za-z0-9]{1,20}$/).filter(isPlainKey), fc.string(), { maxKeys: 4 }),
    },
    { requiredKeys: ["kind"] },
  );
}

function anyManaged(): fc.Arbitrary<NonNullable<ServiceSpecInput["kind"]>> {
  const word = fc.string({ unit: "grapheme" }).map((text) => text.replaceAll("\0", ""));
  const variable = fc
    .stringMatching(/^[A-Za-z_][A-Za-z0-9_]{0,20}$/)
    .filter((key) => isPlainKey(key) && !reservedEnvironment.has(key));
  const delay = (min: number, max: number) => fc.integer({ min, max });
  return fc.record(
    {
      type: fc.constant("managed" as const),
      command: fc
        .tuple(
          word.filter((text) => text !== ""),
          fc.array(word, { maxLength: 5 }),
        )
        .map(([first, rest]) => [first, ...rest]),
      environment: fc.dictionary(variable, word, { maxKeys: 5 }),
      cwd: fc.constantFrom("/", "/var/lib"),
      user: fc.constantFrom("nobody", "daemon"),
      restartPolicy: fc.record(
        {
          mode: fc.constantFrom("always" as const, "on_failure" as const, "never" as const),
          baseDelayMs: delay(100, 1_000),
          maxDelayMs: delay(1_000, 3_600_000),
          resetAfterMs: delay(1_000, 86_400_000),
          maxRestarts: fc.integer({ min: 0, max: 1_000_000 }),
        },
        { requiredKeys: [] },
      ),
      stopGraceMs: delay(0, 3_600_000),
      readinessTimeoutMs: delay(1, 3_600_000),
      minReadyMs: delay(0, 3_600_000),
    },
    { requiredKeys: ["type", "command"] },
  );
}

function anyJson(): fc.Arbitrary<JsonValue> {
  return fc.jsonValue({ maxDepth: 2 }).map((value) => JSON.parse(JSON.stringify(value)) as JsonValue);
}

/** Not one that JavaScript gives a meaning of its own. */
function isPlainKey(key: string): boolean {
  return !(key in {});
}

const longAgo = new Date("2026-01-02T03:04:05.678Z");

export function aStatus(status: Partial<ServiceStatus> = {}): ServiceStatus {
  return {
    ...blankStatus,
    state: "running",
    ready: true,
    observedGeneration: 1,
    instanceId: "6b1a3f5e-0000-4000-8000-000000000001",
    pid: 4711,
    startTime: longAgo,
    readyTime: longAgo,
    transitionTime: longAgo,
    ...status,
  };
}

export function aService(service: Partial<Service> & { readonly name: string }): Service {
  const input = { kind: { type: "managed" as const, command: ["sleep", "1000"], environment: { COLOUR: "green" } } };
  return {
    uid: `uid-of-${service.name}`,
    spec: parseServiceSpec(service.name, input, { forbidden: [], field: "service.spec" }).spec,
    wish: "running",
    generation: 1,
    resets: 0,
    version: 1,
    status: aStatus(),
    route: undefined,
    revision: 1n,
    createTime: longAgo,
    updateTime: longAgo,
    setName: "",
    ...service,
  };
}

export function aRoute(route: Partial<Route> = {}): Route {
  return {
    service: "web",
    serviceUid: "uid-of-web",
    prefix: "/services/web/",
    target: "http://127.0.0.1:20000",
    state: "programmed",
    generation: 1,
    programmedGeneration: 1,
    proxy: "bundled",
    reason: "",
    message: "",
    transitionTime: longAgo,
    confirmTime: longAgo,
    ...route,
  };
}

/** An event of a service, with the service as it was after it. */
export function anEvent(revision: bigint, service: Service | undefined, body: EventBody, index = 0): Event {
  return {
    revision,
    index,
    time: new Date(longAgo.getTime() + Number(revision) * 1_000),
    node: "test",
    service:
      service === undefined ? undefined : { name: service.name, uid: service.uid, generation: service.generation },
    actor: "operator",
    requestId: undefined,
    message: "",
    body,
    after: service === undefined ? undefined : { ...service, revision },
  };
}
