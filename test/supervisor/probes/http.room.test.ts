import { createServer, type RequestListener } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { afterEach, expect, test } from "vitest";
import type { Address } from "../../../src/supervisor/probes/address.ts";
import { httpQuestion } from "../../../src/supervisor/probes/http.ts";
import { Neighbours, selfSigned } from "./neighbours.ts";

const neighbours = new Neighbours();
afterEach(() => neighbours.close());
const never = new AbortController().signal;
const path = "/services/whoami/";

const serve = (handler: RequestListener) => neighbours.listen(createServer(handler));
const ask = (address: Address, timeoutMs = 5_000) => httpQuestion(address, path).ask(never, timeoutMs);

test.each([200, 204, 302, 403, 404, 499])(
  "an answer of %i is a success, and no redirect is followed",
  async (status) => {
    const asked: unknown[] = [];
    const address = await serve((request, response) => {
      asked.push(request.url);
      response.writeHead(status, { location: "/elsewhere" }).end("body");
    });

    expect(await ask(address)).toEqual({ kind: "yes", message: `it answers ${status}` });
    expect(asked).toEqual([path]);
  },
);

test.each([500, 502, 503])("an answer of %i is a failure", async (status) => {
  const address = await serve((_, response) => response.writeHead(status).end());

  expect(await ask(address)).toEqual({ kind: "no", message: `it answers ${status}` });
});

test("where nobody listens is a failure that says so", async () => {
  expect(await ask(await neighbours.nobody())).toEqual({
    kind: "no",
    message: expect.stringMatching(/ECONNREFUSED/),
  });
});

test("one that accepts and says nothing costs a try its time and no more", async () => {
  expect(await ask(await neighbours.silent(), 100)).toEqual({ kind: "no", message: "no answer within 100 ms" });
});

test("one that answers too late has failed", async () => {
  let late: (() => void) | undefined;
  const address = await serve((_, response) => {
    late = () => response.end();
  });

  expect(await ask(address, 100)).toEqual({ kind: "no", message: "no answer within 100 ms" });
  late?.();
});

test("an endless body is not read", async () => {
  const address = await serve((_, response) => {
    response.writeHead(200);
    const more = setInterval(() => response.write("x".repeat(65_536)), 1);
    response.once("close", () => clearInterval(more));
  });

  expect(await ask(address)).toMatchObject({ kind: "yes" });
});

test("a certificate of the service's own making is as good as any", async () => {
  const server = createTlsServer(selfSigned(), (_, response) => response.end());
  const address = await neighbours.listen(server, { isTls: true });

  expect(await ask(address)).toMatchObject({ kind: "yes" });
});

test("a path that looks like another host is asked of the service", async () => {
  const asked: unknown[] = [];
  const address = await serve((request, response) => {
    asked.push(request.url);
    response.end();
  });

  const answer = await httpQuestion(address, "//elsewhere.example/x?y=1").ask(never, 5_000);

  expect(answer).toMatchObject({ kind: "yes" });
  expect(asked).toEqual(["//elsewhere.example/x?y=1"]);
});

test("who gives up waiting is told so by a rejection", async () => {
  const waiting = new AbortController();
  const answer = httpQuestion(await neighbours.silent(), path).ask(waiting.signal, 60_000);

  waiting.abort(new Error("enough"));

  await expect(answer).rejects.toThrow("enough");
});
