import { randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ServiceSpecSchema } from "../../gen/steward/v1/service_pb.ts";
import type { TestAddresses } from "./harness.ts";
import type { Refusal } from "./refusal.ts";
import type { Clients } from "./transports.ts";

/** What bad requests are made with: clients with tokens of several kinds, and things that exist. */
export interface BadRequestScene {
  readonly admin: Clients;
  readonly nobody: Clients;
  readonly wrongToken: Clients;
  readonly revokedToken: Clients;
  /** A service that is no admin. */
  readonly service: Clients;
  /** A token that may only read services. */
  readonly reader: Clients;
  readonly addresses: TestAddresses;
  /** An external service that is registered, with an api_token. */
  readonly taken: string;
  readonly takenApiToken: string;
  /** A name that no service has. */
  readonly free: string;
  /** A page token of an unfiltered list of services. */
  readonly pageToken: string;
  /** A request id that a Create was answered for. */
  readonly usedRequestId: string;
}

export interface BadRequest {
  readonly title: string;
  readonly call: (scene: BadRequestScene) => Promise<unknown>;
  readonly code: Refusal["code"];
  readonly reason: string;
  /** The field that the error names, or what the name begins with. */
  readonly field?: string;
}

type SpecInit = MessageInitShape<typeof ServiceSpecSchema>;
type ManagedInit = Extract<NonNullable<SpecInit["kind"]>, { case: "managed" }>["value"];

/** Everything that a client can get wrong, and what it is told. */
export const badRequests: readonly BadRequest[] = [
  ...[
    ["empty", ""],
    ["too long", "x".repeat(64)],
    ["..", ".."],
    ["a/b", "a/b"],
    ["with a space", "a b"],
    ["that begins with a dash", "-a"],
    ["of another alphabet", "dienst-ä"],
    ["that breaks proxies", "constructor"],
  ].map(([what, name]) => invalid(`a name ${what}`, "service_id", (scene) => create(scene, name, external()))),
  {
    title: "a name that is taken",
    call: (scene) => create(scene, scene.taken, external()),
    ...{ code: "AlreadyExists", reason: "SERVICE_EXISTS" },
  },
  {
    title: "a name that differs from a taken one only by case",
    call: (scene) => create(scene, scene.taken.toUpperCase(), external()),
    ...{ code: "AlreadyExists", reason: "SERVICE_EXISTS" },
  },
  invalid("a service with another name than its id", "service.name", ({ admin, free }) =>
    admin.registry.create({ serviceId: free, service: { name: "other", spec: external() } }),
  ),
  invalid("no service", "service", ({ admin, free }) => admin.registry.create({ serviceId: free })),
  invalid("a spec that is neither managed nor external", "service.spec.kind", (scene) => create(scene, scene.free, {})),

  ...[
    ["another scheme", "ftp://10.0.0.1:80"],
    ["a Unix socket", "http+unix://%2Ftmp%2Fsocket"],
    ["a user name", "http://admin:secret@10.0.0.1:80"],
    ["a path", "http://10.0.0.1:80/admin"],
    ["a query", "http://10.0.0.1:80?x=1"],
    ["no host", "http://"],
    ["port 0 of an external service", "http://10.0.0.1:0"],
    ["a metadata address", "http://169.254.169.254:80"],
    ["a metadata address in decimal", "http://2852039166:80"],
    ["a metadata address mapped into IPv6", "http://[::ffff:169.254.169.254]:80"],
    ["a link-local address", "http://[fe80::1]:80"],
    ["the unspecified address", "http://0.0.0.0:80"],
  ].map(([what, url]) =>
    invalid(`a url with ${what}`, "service.spec.url", (scene) =>
      create(scene, scene.free, external({ url: url ?? "" })),
    ),
  ),
  ...(["connect", "grpc"] as const).flatMap((listener) => [
    invalid(`the url of our own ${listener} listener`, "service.spec.url", (scene) =>
      create(scene, scene.free, external({ url: scene.addresses[listener] })),
    ),
    invalid(`the url of our own ${listener} listener by another name`, "service.spec.url", (scene) =>
      create(scene, scene.free, external({ url: `http://localhost:${new URL(scene.addresses[listener]).port}` })),
    ),
  ]),

  managedRefusal("no command", "command", { command: [] }),
  managedRefusal("an empty command", "command", { command: [""] }),
  managedRefusal("a command with a NUL character", "command[1]", { command: ["sleep", "1\0"] }),
  managedRefusal("a command that is not there", "command", { command: ["there-is-no-such-command"] }),
  managedRefusal("a command that is not executable", "command", { command: ["/etc/passwd"] }),
  managedRefusal("a command that is a directory", "command", { command: ["/etc"] }),
  managedRefusal("a working directory that is missing", "cwd", { command: ["sleep"], cwd: "/there/is/no/such" }),
  managedRefusal("a working directory that is a file", "cwd", { command: ["sleep"], cwd: "/etc/passwd" }),
  managedRefusal("a relative working directory", "cwd", { command: ["sleep"], cwd: "tmp" }),
  managedRefusal("an unknown user", "user", { command: ["sleep"], user: "nobody-has-this-name" }),
  managedRefusal("an environment name with =", "environment", { command: ["sleep"], environment: { "A=B": "c" } }),
  managedRefusal("an environment value with a NUL character", "environment", {
    command: ["sleep"],
    environment: { A: "\0" },
  }),
  managedRefusal("an environment that overrides identity", "environment", {
    command: ["sleep"],
    environment: { JUPYTERHUB_API_TOKEN: "mine" },
  }),
  managedRefusal("a negative grace", "stop_grace", { command: ["sleep"], stopGrace: { seconds: -1n } }),
  {
    title: "a user that Steward may not become",
    call: (scene) =>
      create(scene, scene.free, managed({ command: ["sleep"], user: process.getuid?.() === 0 ? "root" : "daemon" })),
    ...{ code: "FailedPrecondition", reason: "USER_SWITCH_NOT_ALLOWED" },
  },

  invalid("an api_token shorter than 8 characters", "service.spec.api_token", (scene) =>
    create(scene, scene.free, external({ apiToken: "1234567" })),
  ),
  invalid("an api_token with a space", "service.spec.api_token", (scene) =>
    create(scene, scene.free, external({ apiToken: "not one word" })),
  ),
  {
    title: "the api_token of another service",
    call: (scene) => create(scene, scene.free, external({ apiToken: scene.takenApiToken })),
    ...{ code: "AlreadyExists", reason: "TOKEN_IN_USE" },
  },
  invalid("an oauth_client_id that does not start with service-", "service.spec.oauth_client_id", (scene) =>
    create(scene, scene.free, external({ oauthClientId: "web" })),
  ),
  invalid("a label key with a space", "service.spec.labels", (scene) =>
    create(scene, scene.free, external({ labels: { "a b": "c" } })),
  ),
  invalid("a request_id that is no UUID", "request_id", ({ admin, free }) =>
    admin.registry.create({ serviceId: free, service: { spec: external() }, requestId: "again" }),
  ),
  {
    title: "a request_id of another request",
    call: ({ admin, free, usedRequestId }) =>
      admin.registry.create({ serviceId: free, service: { spec: external() }, requestId: usedRequestId }),
    ...{ code: "InvalidArgument", reason: "REQUEST_ID_REUSED", field: "request_id" },
  },
  {
    title: "a body over the limit",
    call: (scene) => create(scene, scene.free, external({ info: { text: "x".repeat(5 * 1024 * 1024) } })),
    ...{ code: "ResourceExhausted", reason: "REQUEST_TOO_LARGE" },
  },
  invalid("info over its limit", "service.spec.info", (scene) =>
    create(scene, scene.free, external({ info: { text: "x".repeat(70_000) } })),
  ),

  missing("Get of a missing service", ({ admin, free }) => admin.registry.get({ name: free })),
  missing("Get by a name in other case", ({ admin, taken }) => admin.registry.get({ name: taken.toUpperCase() })),
  missing("Update of a missing service", ({ admin, free }) =>
    admin.registry.update({ service: { name: free, spec: external() } }),
  ),
  missing("Delete of a missing service", ({ admin, free }) => admin.registry.delete({ name: free })),
  missing("Start of a missing service", ({ admin, free }) => admin.supervisor.start({ name: free })),
  missing("Wait for a missing service", ({ admin, free }) => admin.supervisor.wait({ name: free, condition: 1 })),
  missing("the logs of a missing service", ({ admin, free }) => drain(admin.supervisor.streamLogs({ name: free }))),
  missing("the instances of a missing service", ({ admin, free }) => admin.supervisor.listInstances({ service: free })),
  missing("a token for a missing service", ({ admin, free }) => admin.registry.issueToken({ service: free })),
  ...(["start", "stop", "restart"] as const).map(
    (method): BadRequest => ({
      title: `${method} of an external service`,
      call: ({ admin, taken }) => admin.supervisor[method]({ name: taken }),
      ...{ code: "FailedPrecondition", reason: "SERVICE_NOT_MANAGED" },
    }),
  ),
  {
    title: "the logs of an external service",
    call: ({ admin, taken }) => drain(admin.supervisor.streamLogs({ name: taken })),
    ...{ code: "FailedPrecondition", reason: "SERVICE_NOT_MANAGED" },
  },
  invalid("logs from the last lines on and since a time", "since", ({ admin, taken: name }) =>
    drain(admin.supervisor.streamLogs({ name, tailLines: 1, since: { seconds: 1n } })),
  ),
  invalid("logs since a time and after a cursor", "since", ({ admin, taken: name }) =>
    drain(admin.supervisor.streamLogs({ name, cursor: "x", since: { seconds: 1n } })),
  ),
  invalid("logs from the last lines on and after a cursor", "cursor", ({ admin, taken: name }) =>
    drain(admin.supervisor.streamLogs({ name, tailLines: 1, cursor: "x" })),
  ),

  stale("Update", ({ admin, taken }) =>
    admin.registry.update({ service: { name: taken, etag: '"old"', spec: external() } }),
  ),
  stale("Delete", ({ admin, taken }) => admin.registry.delete({ name: taken, etag: '"old"' })),
  ...["spec.colour", "name", "uid", "status.state", "wish", "spec.api_token_set"].map((path) =>
    invalid(`an update mask with ${path}`, "update_mask", ({ admin, taken }) =>
      admin.registry.update({ service: { name: taken, spec: external() }, updateMask: { paths: [path] } }),
    ),
  ),
  invalid("an update that leaves no command", "service.spec.managed.command", ({ admin, taken }) =>
    admin.registry.update({ service: { name: taken, spec: managed({}) }, updateMask: { paths: ["spec"] } }),
  ),
  invalid("an update of no service", "service.name", ({ admin }) =>
    admin.registry.update({ service: { spec: external() } }),
  ),
  invalid("an update to our own listener", "service.spec.url", ({ admin, taken, addresses }) =>
    admin.registry.update({ service: { name: taken, spec: external({ url: addresses.connect }) } }),
  ),

  {
    title: "a page_token with another filter",
    call: ({ admin, pageToken }) => admin.registry.list({ pageToken, filter: "kind = external" }),
    ...{ code: "InvalidArgument", reason: "PAGE_TOKEN_INVALID", field: "page_token" },
  },
  {
    title: "a page_token of another list",
    call: ({ admin, pageToken }) => admin.supervisor.listRoutes({ pageToken }),
    ...{ code: "InvalidArgument", reason: "PAGE_TOKEN_INVALID", field: "page_token" },
  },
  {
    title: "a page_token that is made up",
    call: ({ admin }) => admin.supervisor.listEvents({ pageToken: "made-up" }),
    ...{ code: "InvalidArgument", reason: "PAGE_TOKEN_INVALID", field: "page_token" },
  },
  invalid("a negative page size", "page_size", ({ admin }) => admin.registry.list({ pageSize: -1 })),
  ...["colour = red", "name =", "(name = a", "name ~ a", 'name = "a'].map(
    (filter): BadRequest => ({
      title: `the filter ${filter}`,
      call: ({ admin }) => admin.registry.list({ filter }),
      ...{ code: "InvalidArgument", reason: "FILTER_INVALID", field: "filter" },
    }),
  ),
  {
    title: "a watch with a filter that cannot be understood",
    call: ({ admin }) => drain(admin.registry.watchServices({ filter: "colour = red" })),
    ...{ code: "InvalidArgument", reason: "FILTER_INVALID", field: "filter" },
  },
  invalid("the tail of a list from a place", "tail", ({ admin }) =>
    admin.supervisor.listEvents({ tail: 1, after: { revision: 1n } }),
  ),
  invalid("events of no type", "types", ({ admin }) => drain(admin.supervisor.watchEvents({ types: [0] }))),
  invalid("a wait for nothing", "condition", ({ admin, taken }) => admin.supervisor.wait({ name: taken })),
  {
    title: "a wait that takes too long",
    call: ({ admin, taken }) =>
      admin.supervisor.wait({ name: taken, condition: 3, timeout: { seconds: 0n, nanos: 50_000_000 } }),
    ...{ code: "DeadlineExceeded", reason: "WAIT_TIMEOUT" },
  },
  {
    title: "a wait for the end of what Steward does not run",
    call: ({ admin, taken }) => admin.supervisor.wait({ name: taken, condition: 2 }),
    ...{ code: "FailedPrecondition", reason: "WAIT_HOPELESS" },
  },
  ...(["watchServices", "watchEvents"] as const).flatMap((method) => {
    const watch = ({ admin }: BadRequestScene, after: { storeUid?: string; revision: bigint }) =>
      method === "watchServices"
        ? drain(admin.registry.watchServices({ after }))
        : drain(admin.supervisor.watchEvents({ after }));
    return [
      {
        title: `${method} after a revision of the future`,
        call: (scene: BadRequestScene) => watch(scene, { revision: 1_000_000_000n }),
        ...({ code: "FailedPrecondition", reason: "REVISION_IN_FUTURE" } as const),
      },
      {
        title: `${method} after a cursor of another store`,
        call: (scene: BadRequestScene) => watch(scene, { storeUid: randomUUID(), revision: 1n }),
        ...({ code: "FailedPrecondition", reason: "STORE_CHANGED" } as const),
      },
    ];
  }),

  invalid("two services of one name in a set", "services[1].name", ({ admin, free }) =>
    admin.registry.apply({
      services: [
        { name: free, spec: external() },
        { name: free.toUpperCase(), spec: external() },
      ],
    }),
  ),
  invalid("a set with one service that is wrong", "services[1].spec.url", ({ admin, free }) =>
    admin.registry.apply({
      services: [
        { name: free, spec: external() },
        { name: `${free}-2`, spec: external({ url: "ftp://x" }) },
      ],
    }),
  ),
  invalid("a prune of no set", "set_name", ({ admin }) => admin.registry.apply({ prune: true })),

  invalid("an unknown scope", "scopes[0]", ({ admin }) => admin.registry.issueToken({ scopes: ["paint:services"] })),
  invalid("a token that ends at once", "ttl", ({ admin }) => admin.registry.issueToken({ ttl: { seconds: 0n } })),
  invalid("the rotation of what is no token id", "token_id", ({ admin }) =>
    admin.registry.rotateToken({ tokenId: "x" }),
  ),
  ...(["rotateToken", "revokeToken"] as const).map(
    (method): BadRequest => ({
      title: `${method} of an unknown token`,
      call: ({ admin }) => admin.registry[method]({ tokenId: randomUUID() }),
      ...{ code: "NotFound", reason: "TOKEN_NOT_FOUND" },
    }),
  ),

  unauthenticated("no token", "TOKEN_MISSING", ({ nobody }) => nobody),
  unauthenticated("a wrong token", "TOKEN_INVALID", ({ wrongToken }) => wrongToken),
  unauthenticated("a revoked token", "TOKEN_REVOKED", ({ revokedToken }) => revokedToken),
  ...(["service", "reader"] as const).flatMap((who) => [
    denied(`Create by a ${who}`, (scene) => create({ ...scene, admin: scene[who] }, scene.free, external())),
    denied(`Update by a ${who}`, (scene) =>
      scene[who].registry.update({ service: { name: scene.taken, spec: external() } }),
    ),
    denied(`Delete of a missing service by a ${who}`, (scene) => scene[who].registry.delete({ name: scene.free })),
    denied(`Apply by a ${who}`, (scene) =>
      scene[who].registry.apply({ services: [{ name: scene.free, spec: external() }] }),
    ),
    denied(`Start by a ${who}`, (scene) => scene[who].supervisor.start({ name: scene.taken })),
    denied(`a token issued by a ${who}`, (scene) => scene[who].registry.issueToken({ service: scene.taken })),
    denied(`a token revoked by a ${who}`, (scene) => scene[who].registry.revokeToken({ tokenId: randomUUID() })),
    denied(`WatchEvents by a ${who}`, (scene) => drain(scene[who].supervisor.watchEvents({}))),
    denied(`WatchServices by a ${who}`, (scene) => drain(scene[who].registry.watchServices({}))),
    denied(`the repair of routes by a ${who}`, (scene) => scene[who].supervisor.reconcileRoutes({})),
    denied(`logs for a ${who}`, (scene) => drain(scene[who].supervisor.streamLogs({ name: scene.free }))),
  ]),
  denied("Get of a missing service by a service", ({ service, free }) => service.registry.get({ name: free })),
];

export function external(spec: Omit<SpecInit, "kind" | "$typeName"> = {}): SpecInit {
  return { ...spec, kind: { case: "external", value: {} } };
}

export function managed(value: ManagedInit, spec: Omit<SpecInit, "kind" | "$typeName"> = {}): SpecInit {
  return { ...spec, kind: { case: "managed", value } };
}

/** Reads a stream to its end. */
export async function drain(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of stream);
}

function create(
  { admin }: Pick<BadRequestScene, "admin">,
  serviceId: string | undefined,
  spec: SpecInit,
): Promise<unknown> {
  return admin.registry.create({ serviceId: serviceId ?? "", service: { spec } });
}

function invalid(title: string, field: string, call: BadRequest["call"]): BadRequest {
  return { title, call, code: "InvalidArgument", reason: "VALIDATION_FAILED", field };
}

function managedRefusal(title: string, field: string, value: ManagedInit): BadRequest {
  return invalid(title, `service.spec.managed.${field}`, (scene) => create(scene, scene.free, managed(value)));
}

function missing(title: string, call: BadRequest["call"]): BadRequest {
  return { title, call, code: "NotFound", reason: "SERVICE_NOT_FOUND" };
}

function stale(method: string, call: BadRequest["call"]): BadRequest {
  return { title: `${method} with a stale etag`, call, code: "Aborted", reason: "ETAG_MISMATCH" };
}

function denied(title: string, call: BadRequest["call"]): BadRequest {
  return { title, call, code: "PermissionDenied", reason: "SCOPE_MISSING" };
}

function unauthenticated(what: string, reason: string, who: (scene: BadRequestScene) => Clients): BadRequest {
  return {
    title: `a call with ${what}`,
    call: async (scene) => create({ admin: who(scene) }, scene.free, external()),
    ...{ code: "Unauthenticated", reason },
  };
}
