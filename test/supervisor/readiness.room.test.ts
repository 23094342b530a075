import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type RequestListener, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { findFreePort } from "../../src/supervisor/port.ts";
import { probeOnce, untilReady } from "../../src/supervisor/readiness.ts";

const servers: { close(): unknown; closeAllConnections?(): void }[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections?.();
    server.close();
  }
});
const never = new AbortController().signal;
const path = "/services/whoami/";

test.each([200, 204, 302, 403, 404, 499])("an answer of %i is ready, and no redirect is followed", async (status) => {
  const asked: unknown[] = [];
  const url = await serve((request, response) => {
    asked.push(request.url);
    response.writeHead(status, { location: "/elsewhere" }).end("body");
  });

  expect(await probeOnce({ url, path }, { timeoutMs: 5_000, signal: never })).toEqual({ ready: true, status });
  expect(asked).toEqual([path]);
});

test.each([500, 502, 503])("an answer of %i is not ready", async (status) => {
  const url = await serve((_, response) => response.writeHead(status).end());

  expect(await probeOnce({ url, path }, { timeoutMs: 5_000, signal: never })).toEqual({
    ready: false,
    status,
    problem: `it answers ${status}`,
  });
});

test("the first try comes at once, and the next until it is ready", async () => {
  let tries = 0;
  const url = await serve((_, response) => response.writeHead(++tries < 3 ? 503 : 200).end());

  const start = performance.now();
  expect(await untilReady({ url, path }, { deadlineMs: 20_000, signal: never })).toEqual({ ready: true, status: 200 });
  expect(tries).toBe(3);
  expect(performance.now() - start).toBeGreaterThan(590); // 0.2 s and 0.4 s
});

test("a service that never listens is not ready at the deadline, and the reason is told", async () => {
  const port = await findFreePort({ range: { first: 20_000, last: 29_999 }, avoid: new Set(), host: "127.0.0.1" });

  const answer = await untilReady({ url: `http://127.0.0.1:${port}`, path }, { deadlineMs: 300, signal: never });

  expect(answer).toMatchObject({ ready: false, problem: expect.stringMatching(/ECONNREFUSED/) });
});

test("one that accepts and says nothing costs a try its time and no more", async () => {
  const silent = createTcpServer();
  servers.push(silent);
  await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
  const { port } = silent.address() as AddressInfo;

  const answer = await untilReady(
    { url: `http://127.0.0.1:${port}`, path },
    { deadlineMs: 350, tryTimeoutMs: 100, signal: never },
  );

  expect(answer).toMatchObject({ ready: false, problem: expect.stringMatching(/no answer within/) });
});

test("an endless body is not read", async () => {
  const url = await serve((_, response) => {
    response.writeHead(200);
    const more = setInterval(() => response.write("x".repeat(65_536)), 1);
    response.once("close", () => clearInterval(more));
  });

  expect(await probeOnce({ url, path }, { timeoutMs: 5_000, signal: never })).toMatchObject({ ready: true });
});

test("a certificate of the service's own making is as good as any", async () => {
  const directory = mkdtempSync(join(tmpdir(), "steward-tls-"));
  const [key, cert] = [join(directory, "key"), join(directory, "cert")];
  const subject = ["-subj", "/CN=somebody-else", "-days", "1"];
  execFileSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, ...subject], {
    stdio: "ignore",
  });
  const server = createTlsServer({ key: readFileSync(key), cert: readFileSync(cert) }, (_, response) => response.end());
  const url = await listen(server, "https");
  rmSync(directory, { recursive: true });

  expect(await probeOnce({ url, path }, { timeoutMs: 5_000, signal: never })).toEqual({ ready: true, status: 200 });
});

test("who gives up waiting is told so by a rejection", async () => {
  const waiting = new AbortController();
  const answer = untilReady({ url: "http://127.0.0.1:1", path }, { deadlineMs: 60_000, signal: waiting.signal });

  waiting.abort(new Error("enough"));

  await expect(answer).rejects.toThrow();
});

async function serve(handler: RequestListener): Promise<string> {
  return listen(createServer(handler), "http");
}

async function listen(server: Server, scheme: string): Promise<string> {
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `${scheme}://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
