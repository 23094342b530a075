import fc from "fast-check";
import type { Event, EventBody } from "../../src/domain/event.ts";
import type { Limits } from "../../src/domain/limits.ts";
import type { ProbeActionInput, ProbeInput, ProbeRole } from "../../src/domain/probe.ts";
import type { Route } from "../../src/domain/route.ts";
import { type JsonValue, type Service, type ServiceSpec, stopSignals } from "../../src/domain/service.ts";
import {
  type ExternalSpecInput,
  type ManagedSpecInput,
  parseServiceSpec,
  reservedEnvironment,
  type ServiceSpecInput,
} from "../../src/domain/service-spec.ts";
import { picksPort } from "../../src/domain/service-url.ts";
import { blankStatus, type ServiceStatus } from "../../src/domain/status.ts";

/** Any spec that a client may write and the domain accepts. */
export function anySpec(name = "web"): fc.Arbitrary<ServiceSpec> {
  return anySpecInput().map((input) => parseServiceSpec(name, input, { forbidden: [], field: "service.spec" }).spec);
}

function anySpecInput(): fc.Arbitrary<ServiceSpecInput> {
  const url = fc.integer({ min: 1, max: 65_535 }).map((port) => `http://10.0.0.1:${port}`);
  const ofExternal = fc.option(url, { nil: undefined });
  const ofManaged = fc.option(fc.oneof(url, fc.constant("http://127.0.0.1:0")), { nil: undefined });
  return fc.oneof(
    ofExternal.chain((of) => anySpecWith(of, anyExternal(of))),
    ofManaged.chain((of) => anySpecWith(of, anyManaged(of))),
  );
}

function anySpecWith(
  url: string | undefined,
  kind: fc.Arbitrary<NonNullable<ServiceSpecInput["kind"]>>,
): fc.Arbitrary<ServiceSpecInput> {
  return fc.record(
    {
      kind,
      admin: fc.boolean(),
      url: fc.constant(url),
      oauthClientId: fc.constant("service-other"),
      oauthNoConfirm: fc.boolean(),
      info: fc.dictionary(fc.string().filter(isPlainKey), anyJson(), { maxKeys: 4 }),
      display: fc.boolean(),
      labels: fc.dictionary(fc.stringMatching(/^[A-Za-z0-9]{1,20}$/).filter(isPlainKey), fc.string(), { maxKeys: 4 }),
    },
    { requiredKeys: ["kind", "url"] },
  );
}

function anyExternal(url: string | undefined): fc.Arbitrary<ExternalSpecInput> {
  return fc.record({ type: fc.constant("external"), probe: anyProbe("external", url) }, { requiredKeys: ["type"] });
}

function anyManaged(url: string | undefined): fc.Arbitrary<ManagedSpecInput> {
  const variable = fc
    .stringMatching(/^[A-Za-z_][A-Za-z0-9_]{0,20}$/)
    .filter((key) => isPlainKey(key) && !reservedEnvironment.has(key));
  const dependency = fc.record({
    service: fc.constantFrom("db", "Cache", "queue"),
    condition: fc.constantFrom("started", "ready", "completed"),
  });
  return fc
    .record(
      {
        type: fc.constant("managed"),
        command: anyCommand(),
        environment: fc.dictionary(variable, anyWord(), { maxKeys: 5 }),
        cwd: fc.constantFrom("/", "/var/lib"),
        user: fc.constantFrom("nobody", "daemon"),
        restartPolicy: anyPolicy(),
        stopGraceMs: fc.integer({ min: 0, max: 3_600_000 }),
        readinessTimeoutMs: fc.integer({ min: 1, max: 3_600_000 }),
        minReadyMs: fc.integer({ min: 0, max: 3_600_000 }),
        stopSignal: fc.constantFrom(...stopSignals),
        drainMs: fc.integer({ min: 0, max: 3_600_000 }),
        limits: anyLimits(),
        startupProbe: anyProbe("startup", url),
        readinessProbe: anyProbe("readiness", url),
        livenessProbe: anyProbe("liveness", url),
        dependsOn: fc.uniqueArray(dependency, { selector: ({ service }) => service }),
        updateStrategy: picksPort(url) ? fc.constantFrom("recreate", "rolling") : fc.constant("recreate"),
      },
      { requiredKeys: ["type", "command"] },
    )
    .filter((managed) => managed.startupProbe === undefined || managed.readinessProbe?.action?.kind !== "notify");
}

function anyPolicy(): fc.Arbitrary<NonNullable<ManagedSpecInput["restartPolicy"]>> {
  return fc.record(
    {
      mode: fc.constantFrom("always", "on_failure", "never"),
      baseDelayMs: fc.integer({ min: 100, max: 1_000 }),
      maxDelayMs: fc.integer({ min: 1_000, max: 3_600_000 }),
      multiplier: fc.double({ min: 1, max: 10, noNaN: true }),
      resetAfterMs: fc.integer({ min: 1_000, max: 86_400_000 }),
      immediateAfterMs: fc.integer({ min: 0, max: 86_400_000 }),
      maxRestarts: fc.integer({ min: 0, max: 1_000_000 }),
      noRestartExitCodes: fc.uniqueArray(fc.integer({ min: 0, max: 255 })),
      crashLoopExits: fc.integer({ min: 2, max: 100 }),
      crashLoopWindowMs: fc.integer({ min: 1_000, max: 86_400_000 }),
    },
    { requiredKeys: [] },
  );
}

function anyLimits(): fc.Arbitrary<Limits> {
  const bytes = fc.integer({ min: 1_048_576, max: Number.MAX_SAFE_INTEGER });
  return fc.record(
    {
      memoryBytes: bytes,
      cpuMillis: fc.integer({ min: 10, max: 1_000_000 }),
      processes: fc.integer({ min: 1, max: 4_194_304 }),
      openFiles: fc.integer({ min: 8, max: 1_048_576 }),
      addressSpaceBytes: bytes,
      coreBytes: fc.maxSafeNat(),
      nice: fc.integer({ min: -20, max: 19 }),
    },
    { requiredKeys: [] },
  );
}

/** Every kind of probe that the role allows; the port may be missing where there is a url. */
function anyProbe(role: ProbeRole, url: string | undefined): fc.Arbitrary<ProbeInput> {
  const isManaged = role !== "external";
  const number = fc.integer({ min: 1, max: 65_535 });
  const port = url === undefined ? number : fc.option(number, { nil: undefined });
  const path = fc.option(fc.stringMatching(/^\/[!-~]{0,30}$/), { nil: undefined });
  const actions: fc.Arbitrary<ProbeActionInput>[] = [
    fc.record({ kind: fc.constant("http"), path, port }),
    fc.record({ kind: fc.constant("tcp"), port }),
    fc.record({ kind: fc.constant("grpc"), port, service: fc.constantFrom("", "steward.v1.Supervisor") }),
  ];
  if (isManaged) actions.push(fc.record({ kind: fc.constant("exec"), command: anyCommand() }));
  if (isManaged && role !== "liveness")
    actions.push(fc.record({ kind: fc.constant("notify"), fd: fc.integer({ min: 3, max: 9 }) }));
  return fc.record(
    {
      action: fc.oneof(...actions),
      periodMs: fc.integer({ min: 100, max: 3_600_000 }),
      timeoutMs: fc.integer({ min: 100, max: 300_000 }),
      failureThreshold: fc.integer({ min: 1, max: 1_000 }),
      successThreshold: fc.integer({ min: 1, max: 1_000 }),
    },
    { requiredKeys: ["action"] },
  );
}

function anyCommand(): fc.Arbitrary<[string, ...string[]]> {
  const program = anyWord().filter((text) => text !== "");
  return fc.tuple(program, fc.array(anyWord(), { maxLength: 5 })).map(([first, rest]) => [first, ...rest]);
}

function anyWord(): fc.Arbitrary<string> {
  return fc.string({ unit: "grapheme" }).map((text) => text.replaceAll("\0", ""));
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
