import { randomUUID } from "node:crypto";
import { rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { createTestDatabase } from "../support/postgres.ts";
import { external } from "./bad-requests.ts";
import { TestSteward } from "./harness.ts";
import { refusalOf } from "./refusal.ts";
import { type Clients, clientsOf } from "./transports.ts";

const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

test("a request is done once and answered the same over a crash of the server", async () => {
  const steward = await TestSteward.start();
  ends.push(() => steward[Symbol.asyncDispose]());
  const requests = requestsOf("web");
  const first = await answersOf(clientOf(steward), requests);
  const before = await remains(clientOf(steward));

  await steward.crash();
  await steward.startAgain();

  expect(await answersOf(clientOf(steward), requests)).toEqual(first);
  expect(await remains(clientOf(steward))).toEqual(before);
});

test("of two server processes on one database either gives the answer of the other, also to requests at the same time", async () => {
  const [one, other] = await twoServers();
  const requests = requestsOf("web");

  const [first, second] = await Promise.all([answersOf(one, requests), answersOf(other, requests)]);

  expect(second).toEqual(first);
  expect((await one.registry.list({})).services.map(({ name }) => name)).toEqual(["web"]);
  const { tokens } = await other.registry.listTokens({ service: "web" });
  expect(tokens.map(({ id }) => id)).toEqual([first.issued.token?.id]);
  const reused = refusalOf(other.registry.create({ ...requests.create, serviceId: "another" }));
  expect(await reused).toMatchObject({ code: "InvalidArgument", reason: "REQUEST_ID_REUSED" });
});

test("what one server process has written another one answers with, if it is asked for that revision", async () => {
  const [one, other] = await twoServers();

  for (let turn = 1; turn <= 20; turn++) {
    const created = await one.registry.create({ serviceId: `web-${turn}`, service: { spec: external() } });
    const { revision: minRevision } = created;

    const got = await other.registry.get({ name: `web-${turn}`, minRevision });
    const { events } = await other.supervisor.listEvents({ filter: `revision = ${minRevision}`, minRevision });

    expect(got.service).toEqual(created.service);
    expect(events).toMatchObject([{ service: `web-${turn}` }]);
  }
});

/** Two processes of one database, with the secret that they must share. */
async function twoServers(): Promise<[Clients, Clients]> {
  const database = await createTestDatabase();
  ends.push(() => database.drop());
  const pepper = join(tmpdir(), `steward-test-pepper-${randomUUID()}`);
  ends.push(() => rm(pepper, { force: true }));
  await writeFile(pepper, Buffer.alloc(32, 7).toString("base64"), { mode: 0o600 });
  const servers: Clients[] = [];
  for (const node of ["one", "other"]) {
    const flags = { "database-url": database.url, "pepper-file": pepper, node };
    const steward = await TestSteward.start({ flags });
    ends.push(() => steward[Symbol.asyncDispose]());
    servers.push(clientOf(steward));
  }
  const [one, other] = servers;
  if (one === undefined || other === undefined) throw new Error("there are not two servers");
  return [one, other];
}

function clientOf({ addresses, adminToken }: TestSteward): Clients {
  return clientsOf("Connect with protobuf over HTTP/2", addresses, adminToken);
}

function requestsOf(name: string) {
  const [create, issue] = [randomUUID(), randomUUID()];
  return {
    create: { serviceId: name, service: { spec: external() }, requestId: create },
    issue: { service: name, requestId: issue },
  };
}

async function answersOf({ registry }: Clients, { create, issue }: ReturnType<typeof requestsOf>) {
  const created = await registry.create(create);
  return { created, issued: await registry.issueToken(issue) };
}

async function remains({ registry, supervisor }: Clients) {
  const { services } = await registry.list({});
  const { tokens } = await registry.listTokens({ service: "web" });
  const { events } = await supervisor.listEvents({ filter: "service = web" });
  return [services, tokens.map(({ id }) => id), events];
}
