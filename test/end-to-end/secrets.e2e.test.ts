import { randomBytes } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { create, type DescMethod, type Message, toJsonString } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel as Idempotency } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  ApplyRequestSchema,
  CreateRequestSchema,
  ServiceRegistry,
  UpdateRequestSchema,
} from "../../gen/steward/v1/service_registry_pb.ts";
import { Supervisor, WaitCondition } from "../../gen/steward/v1/supervisor_pb.ts";
import { nameOf, plant, secretPaths } from "../support/secret-fields.ts";
import { managed } from "./bad-requests.ts";
import { TestSteward } from "./harness.ts";
import { type Clients, clientsOf, type TransportName } from "./transports.ts";

/** Each reads requests in a way of its own; the others do it as one of these. */
const ways = [
  "Connect with JSON over HTTP/1.1",
  "gRPC on the Connect listener",
  "gRPC on the gRPC listener",
] as const satisfies readonly TransportName[];

const methods: readonly DescMethod[] = [...ServiceRegistry.methods, ...Supervisor.methods];
/** What must be nowhere, and what only those may read who have the scope for the environment. */
const secrets: string[] = [];
const environment: string[] = [];
/** Everything that was told to somebody. */
const answers: string[] = [];
const errors: string[] = [];
let steward: TestSteward;

beforeAll(async () => {
  steward = await TestSteward.start({ flags: { "log-level": "trace", "slow-call": "0.001", "slow-query": "0.001" } });
  secrets.push(steward.adminToken);
});

afterAll(async () => {
  await steward?.[Symbol.asyncDispose]();
});

test("no secret that goes in, in whatever field of whatever request, comes out anywhere", async () => {
  for (const [index, name] of ways.entries()) {
    const admin = clientsOf(name, steward.addresses, steward.adminToken);
    for (const method of methods)
      for (const path of secretPaths(method.input)) await sendAll(admin, index, method, path);
    await issue(admin, `s${index}-Create-api_token`);
    await misuse(name);
  }
  await malformed();
  await instanceTokens();
  const service = "s0-Create-environment";
  await readEverything(clientsOf("gRPC-Web", steward.addresses, steward.adminToken), service, answers);
  const narrow = await issueNarrow(service);
  const readByOthers: string[] = [];
  await readEverything(clientsOf("gRPC-Web", steward.addresses, narrow), service, readByOthers);

  const metrics = await (await fetch(`${steward.addresses.connect}/metrics`)).text();
  const told = { answers, readByOthers, errors, metrics: [metrics], log: [steward.log], titles: await titles() };
  expect(secrets.length).toBeGreaterThan(20);
  expect(environment.length).toBeGreaterThan(10);
  for (const [where, texts] of Object.entries(told)) {
    expect(texts.length, where).toBeGreaterThan(0);
    const text = texts.join("\n");
    for (const form of secrets.flatMap(formsOf)) expect(text.includes(form), `${form} in ${where}`).toBe(false);
    if (where === "answers") continue;
    for (const form of environment.flatMap(formsOf)) expect(text.includes(form), `${form} in ${where}`).toBe(false);
  }
  // What was looked through is what there is to see.
  expect(answers.join("\n")).toContain(environment[0]);
  expect(readByOthers.join("\n")).toContain(`"${service}"`);
  expect(steward.log).toContain('"api_token":"[redacted]"');
  expect(steward.log).toContain('"environment":"[redacted]"');
  expect(steward.log).toContain('"msg":"slow statement"');
  expect(metrics).toContain("grpc_server_handled_total");
  expect(told.titles.join("\n")).toContain("serve");
});

/** Requests that are right but for their secret, by the method that they are for. */
const bases: Readonly<Record<string, (name: string) => Message>> = {
  Create: (name) => create(CreateRequestSchema, { serviceId: name, service: { spec: sleeper() } }),
  Update: (name) =>
    create(UpdateRequestSchema, { service: { name, spec: sleeper() }, allowMissing: true, updateMask: undefined }),
  Apply: (name) => create(ApplyRequestSchema, { services: [{ name, spec: sleeper() }], setName: name }),
};

const sleeper = () => managed({ command: ["sleep", "1000"], minReady: { nanos: 1 } });

/** Sends a secret in one field: as it should be, only to see, once more, in the wrong company and in forms that no secret has. */
async function sendAll(
  admin: Clients,
  index: number,
  method: DescMethod,
  path: ReturnType<typeof secretPaths>[number],
) {
  const base = bases[method.name];
  if (base === undefined) throw new Error(`${nameOf(method.input, path)} is a secret that is not tried here`);
  const marked = path.at(-1)?.name ?? "";
  const name = `s${index}-${method.name}-${marked}`;
  const send = async (to: string, secret: string, change: object = {}) =>
    call(admin, method, Object.assign(plant(method.input, base(to), path, secret), change));
  const fresh = () => {
    const secret = `canary-${randomBytes(12).toString("hex")}`;
    (marked === "environment" ? environment : secrets).push(secret);
    return secret;
  };
  await send(`${name}-tried`, fresh(), { validateOnly: true });
  await send(name, fresh(), { requestId: crypto.randomUUID() });
  await send(name, fresh());
  await send("not a name", fresh());
  await send(name, `${fresh()} with a space and \u0000`);
  await send(name, `${fresh()}${"x".repeat(40_000)}`);
  await send(name, `\u{1f511}${fresh()}`);
}

async function call(clients: Clients, method: DescMethod, request: Message): Promise<Message | undefined> {
  const client = method.parent === ServiceRegistry ? clients.registry : clients.supervisor;
  const run = client[method.localName as keyof typeof client] as unknown as (request: Message) => Promise<Message>;
  try {
    const answer = await run(request);
    answers.push(toJsonString(method.output, answer));
    return answer;
  } catch (error) {
    noteError(error);
    return undefined;
  }
}

function noteError(error: unknown): void {
  const { rawMessage, details, metadata } = ConnectError.from(error);
  const shown = details.map((detail) =>
    "desc" in detail ? detail.value : [detail.type, [...detail.value], detail.debug],
  );
  errors.push(
    rawMessage,
    JSON.stringify(shown, (_, value: unknown) => (typeof value === "bigint" ? String(value) : value)),
  );
  for (const detail of details) if ("type" in detail) errors.push(Buffer.from(detail.value).toString("latin1"));
  errors.push(JSON.stringify([...metadata]));
}

/** Tokens are secrets that go out once: in the one field that is for it. */
async function issue({ registry }: Clients, service: string): Promise<void> {
  const issued = await registry.issueToken({ service });
  const rotated = await registry.rotateToken({ tokenId: issued.token?.id ?? "" });
  secrets.push(issued.secret, rotated.secret);
  for (const answer of [issued, rotated]) answers.push(JSON.stringify(answer.token, bigints));
}

async function issueNarrow(service: string): Promise<string> {
  const { registry } = clientsOf("gRPC-Web", steward.addresses, steward.adminToken);
  const scopes = ["list:services", "read:services", "read:services:logs", "read:routes", "read:events"];
  const { secret } = await registry.issueToken({ service: "", scopes, note: service });
  secrets.push(secret);
  return secret;
}

/** Tokens that are wrong, and in places where none is looked for. */
async function misuse(name: TransportName): Promise<void> {
  const wrong = `sts_${randomBytes(18).toString("hex")}`;
  secrets.push(wrong);
  for (const token of [wrong, `${wrong} and more`])
    await clientsOf(name, steward.addresses, token).registry.list({}).catch(noteError);
  const path = `/steward.v1.ServiceRegistry/List?encoding=json&message=%7B%7D&token=${wrong}`;
  const answer = await fetch(`${steward.addresses.connect}${path}`, { headers: { cookie: `token=${wrong}` } });
  errors.push(await answer.text());
}

/** JSON that cannot be read, around a secret. */
async function malformed(): Promise<void> {
  const secret = `canary-${randomBytes(12).toString("hex")}`;
  secrets.push(secret);
  for (const [method, type, body] of [
    ["Create", "application/json", `{"service":{"spec":{"api_token":["${secret}"]}}}`],
    ["Create", "application/json", `{"service":{"spec":{"api_token":"${secret}"`],
    ["Create", "application/json", `{"service":{"spec":{"managed":{"environment":"${secret}"}}}}`],
    ["Create", "application/json", `"${secret}"`],
    ["Create", "application/json", `{"service":{"spec":{"managed":{"environment":{"A":"${secret}\\ud800"}}}}}`],
    ["Create", "application/proto", `\u0012${secret}`],
    ["Create", "text/plain", secret],
    ["Nothing", "application/json", `{"a":"${secret}"}`],
  ] as const) {
    const answer = await fetch(`${steward.addresses.connect}/steward.v1.ServiceRegistry/${method}`, {
      method: "POST",
      headers: { "content-type": type, authorization: `Bearer ${steward.adminToken}` },
      body,
    });
    expect(answer.status).toBeGreaterThanOrEqual(400);
    errors.push(await answer.text(), JSON.stringify([...answer.headers]));
  }
}

/** The tokens that the platform gave the processes: their environment is the only place for them. */
async function instanceTokens(): Promise<void> {
  const { registry, supervisor } = clientsOf("gRPC-Web", steward.addresses, steward.adminToken);
  const name = "s0-Create-environment";
  await supervisor.wait({ name, condition: WaitCondition.READY });
  const pid = (await registry.get({ name })).service?.status?.pid;
  const variables = (await readFile(`/proc/${pid}/environ`, "utf8")).split("\0");
  const token = variables.find((each) => each.startsWith("JUPYTERHUB_API_TOKEN="))?.split("=")[1] ?? "";
  expect(token.length).toBeGreaterThan(7);
  secrets.push(token);
}

/** What each read is asked, but for those that are asked nothing. */
const questions: Readonly<Record<string, (service: string) => object>> = {
  Get: (name) => ({ name }),
  ListRevisions: (name) => ({ name }),
  Explain: (name) => ({ name }),
  Wait: (name) => ({ name, condition: WaitCondition.READY }),
  StreamLogs: (name) => ({ name }),
  ListInstances: (service) => ({ service }),
  ListTokens: () => ({ showEnded: true }),
  WatchEvents: () => ({ after: { revision: 0n }, includeServices: true }),
};

/** Every method that only reads, streams for a while. */
async function readEverything(clients: Clients, service: string, told: string[]): Promise<void> {
  for (const method of methods) {
    if (method.idempotency !== Idempotency.NO_SIDE_EFFECTS && method.methodKind === "unary") continue;
    const client = method.parent === ServiceRegistry ? clients.registry : clients.supervisor;
    const run = client[method.localName as keyof typeof client] as unknown as (
      request: object,
      options: { signal: AbortSignal },
    ) => Promise<Message> | AsyncIterable<Message>;
    const leaving = new AbortController();
    const answer = run(questions[method.name]?.(service) ?? {}, { signal: leaving.signal });
    try {
      if ("then" in answer) told.push(toJsonString(method.output, await answer));
      else await readSome(answer, (message) => told.push(toJsonString(method.output, message)));
    } catch (error) {
      noteError(error);
    }
    leaving.abort();
  }
}

/** Until a watch has told what there is. */
async function readSome(stream: AsyncIterable<Message>, tell: (message: Message) => void): Promise<void> {
  const { head } = (await readHead()) ?? { head: 0n };
  for await (const message of stream) {
    tell(message);
    const { message: what, cursor } = message as { message?: { case: string }; cursor?: { revision: bigint } };
    if (what?.case === "snapshotEnd" || (cursor?.revision ?? 0n) >= head) return;
  }
}

async function readHead(): Promise<{ head: bigint }> {
  const { revision } = await clientsOf("gRPC-Web", steward.addresses, steward.adminToken).registry.list({});
  return { head: revision };
}

/** Titles and arguments of every process of this host that can be read. */
async function titles(): Promise<string[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const read = (pid: string, file: string) => readFile(`/proc/${pid}/${file}`, "utf8").catch(() => "");
  return (await Promise.all(pids.map(async (pid) => [await read(pid, "cmdline"), await read(pid, "comm")]))).flat();
}

/** A text as it stands, and as bytes of it are printed. */
function formsOf(secret: string): string[] {
  const bytes = Buffer.from(secret);
  return [secret, bytes.toString("hex"), bytes.toString("base64").replace(/=+$/, "").slice(0, -1)];
}

function bigints(_: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}
