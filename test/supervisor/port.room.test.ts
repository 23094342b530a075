import { createServer, type Server } from "node:net";
import { afterEach, expect, test } from "vitest";
import { findFreePort } from "../../src/supervisor/port.ts";

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});
const host = "127.0.0.1";
const none = new Set<number>();

test("a port is taken only when it is of the range, free and not promised to another", async () => {
  const first = await freeRun();
  await listen(first, host);
  const wish = { range: { first, last: first + 2 }, host, start: 0 };

  expect(await findFreePort({ ...wish, avoid: none })).toBe(first + 1);
  expect(await findFreePort({ ...wish, avoid: new Set([first + 1]) })).toBe(first + 2);
  await expect(findFreePort({ ...wish, avoid: new Set([first + 1, first + 2]) })).rejects.toMatchObject({
    code: "resource_exhausted",
  });
});

test("a port that somebody has on all addresses is not free on one", async () => {
  const first = await freeRun();
  await listen(first, "0.0.0.0");

  expect(await findFreePort({ range: { first, last: first + 2 }, avoid: none, host, start: 0 })).toBe(first + 1);
});

test("the port it had before is preferred, unless it is taken or outside", async () => {
  const first = await freeRun();
  const wish = { range: { first, last: first + 2 }, avoid: none, host, start: 0 };

  expect(await findFreePort({ ...wish, preferred: first + 2 })).toBe(first + 2);
  expect(await findFreePort({ ...wish, preferred: first + 3 })).toBe(first);
  await listen(first + 2, host);
  expect(await findFreePort({ ...wish, preferred: first + 2 })).toBe(first);
});

test("a search that begins late goes round", async () => {
  const first = await freeRun();

  expect(
    await findFreePort({ range: { first, last: first + 2 }, avoid: new Set([first + 2]), host, start: 0.99 }),
  ).toBe(first);
});

/** The first of three free ports in a row. */
async function freeRun(): Promise<number> {
  for (;;) {
    const first = await findFreePort({ range: { first: 30_000, last: 32_000 }, avoid: none, host });
    const rest = await Promise.all(
      [first + 1, first + 2].map((port) =>
        findFreePort({ range: { first: port, last: port }, avoid: none, host }).catch(() => undefined),
      ),
    );
    if (rest.every((port) => port !== undefined)) return first;
  }
}

async function listen(port: number, address: string): Promise<void> {
  const server = createServer();
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(port, address, resolve));
}
