import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Http2Server, type ServerHttp2Session } from "node:http2";
import { type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type CliDefaults, connect, type GlobalOptions } from "../../src/cli/context.ts";

/** Listens, and remembers the Authorization header of the last call. */
let server: Http2Server;
let sessions: ServerHttp2Session[];
let port: number;
let seen: string | undefined;
let stateDir: string;

beforeEach(async () => {
  seen = "never called";
  sessions = [];
  server = createServer((request, response) => {
    seen = request.headers.authorization;
    response.writeHead(200, { "content-type": "application/proto" }).end();
  });
  server.on("session", (session) => sessions.push(session));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  port = (server.address() as AddressInfo).port;
  stateDir = mkdtempSync(join(tmpdir(), "steward-context-"));
});
afterEach(async () => {
  rmSync(stateDir, { recursive: true });
  for (const session of sessions) session.destroy();
  await new Promise((resolve) => server.close(resolve));
});

function leaveServer(addresses: { connect: string; grpc?: string; local?: string }): void {
  writeFileSync(join(stateDir, "server.json"), JSON.stringify({ addresses }));
  writeFileSync(join(stateDir, "admin-token"), "local-token\n");
}

async function callWith(
  options: Partial<GlobalOptions>,
  defaults: Partial<CliDefaults> = {},
): Promise<string | undefined> {
  const { registry, address } = connect(
    { protocol: "connect", ...options },
    { address: undefined, token: undefined, stateDirs: ["/no/such", stateDir], plain: true, ...defaults },
  );
  expect(address).toMatch(/^(https?:\/\/|unix:\/)/);
  await registry.whoAmI({}, { timeoutMs: 10_000 });
  return seen;
}

describe("the token", () => {
  test("of a local server is found, with its address", async () => {
    leaveServer({ connect: `http://127.0.0.1:${port}` });

    expect(await callWith({})).toBe("Bearer local-token");
  });

  test("of a local server is sent where --address names the same server", async () => {
    leaveServer({ connect: "http://127.0.0.1:1", grpc: `http://127.0.0.1:${port}` });

    expect(await callWith({ address: `localhost:${port}` })).toBe("Bearer local-token");
  });

  test("of a local server is never sent to another one", async () => {
    leaveServer({ connect: "http://127.0.0.1:1" });

    expect(await callWith({ address: `127.0.0.1:${port}` })).toBeUndefined();
    expect(await callWith({}, { address: `http://127.0.0.1:${port}/` })).toBeUndefined();
  });

  test("that is given wins: the flag, then its file, then the environment", async () => {
    leaveServer({ connect: `http://127.0.0.1:${port}` });
    const tokenFile = join(stateDir, "token");
    writeFileSync(tokenFile, "from-file\n");
    const defaults = { token: "from-environment" };

    expect(await callWith({ token: "from-flag", tokenFile }, defaults)).toBe("Bearer from-flag");
    expect(await callWith({ tokenFile }, defaults)).toBe("Bearer from-file");
    expect(await callWith({}, defaults)).toBe("Bearer from-environment");
  });
});

test("a local server is called on its socket; another address is taken as it is", async () => {
  const socket = join(stateDir, "s.sock");
  const local = createServer((request, response) => {
    seen = `local ${request.headers.authorization}`;
    response.writeHead(200, { "content-type": "application/proto" }).end();
  }).on("session", (session) => sessions.push(session));
  await new Promise<void>((resolve) => local.listen(socket, resolve));
  leaveServer({ connect: `http://127.0.0.1:${port}`, local: `unix:${socket}` });

  expect(await callWith({})).toBe("local Bearer local-token");
  expect(await callWith({ address: `unix:${socket}` })).toBe("local Bearer local-token");
  expect(await callWith({ address: `127.0.0.1:${port}` })).toBe("Bearer local-token");
  leaveServer({ connect: "http://127.0.0.1:1", local: "unix:/another" });
  expect(await callWith({ address: `unix://${socket}` })).toBe("local undefined");

  for (const session of sessions) session.destroy();
  await new Promise((resolve) => local.close(resolve));
});

test("a token file that cannot be read is named", () => {
  expect(() =>
    connect(
      { protocol: "connect", tokenFile: "/no/such" },
      { address: "h:1", token: undefined, stateDirs: [], plain: true },
    ),
  ).toThrow("cannot read the token file /no/such");
});

test.each(["http://", "ftp://h:1", "a b", "h:99999", "unix:relative", "unix:"])("%j is no address", (address) => {
  expect(() =>
    connect({ protocol: "connect", address }, { address: undefined, token: "t", stateDirs: [], plain: true }),
  ).toThrow("the address is HOST:PORT, a URL or unix:/PATH");
});
