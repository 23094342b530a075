import { afterEach, expect, test } from "vitest";
import { addressOf } from "../../../src/supervisor/probes/address.ts";
import { tcpQuestion } from "../../../src/supervisor/probes/tcp.ts";
import { Neighbours } from "./neighbours.ts";

const neighbours = new Neighbours();
afterEach(() => neighbours.close());
const never = new AbortController().signal;

test("a connection that is taken is a success, whatever is said on it", async () => {
  const address = await neighbours.silent();

  expect(await tcpQuestion(address).ask(never, 5_000)).toEqual({ kind: "yes", message: "it takes connections" });
});

test("one that is refused is a failure", async () => {
  const answer = await tcpQuestion(await neighbours.nobody()).ask(never, 5_000);

  expect(answer).toEqual({ kind: "no", message: expect.stringMatching(/ECONNREFUSED/) });
});

test("a name that nobody knows is a failure", async () => {
  const answer = await tcpQuestion({ host: "nobody.invalid", port: 1, isTls: false }).ask(never, 20_000);

  expect(answer).toMatchObject({ kind: "no" });
});

test.each([
  ["http://127.0.0.1:80", undefined, { host: "127.0.0.1", port: 80, isTls: false }],
  ["https://[::1]:8443", undefined, { host: "::1", port: 8443, isTls: true }],
  ["https://example.org", undefined, { host: "example.org", port: 443, isTls: true }],
  ["http://localhost:8000", 9_000, { host: "localhost", port: 9_000, isTls: false }],
  [undefined, 9_000, { host: "127.0.0.1", port: 9_000, isTls: false }],
])("a service at %s is asked at port %s or its own", (url, port, address) => {
  expect(addressOf(url, port)).toEqual(address);
});
