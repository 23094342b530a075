import { once } from "node:events";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { inTransaction } from "../../src/store/commit.ts";
import { createPool } from "../../src/store/postgres.ts";

let server: Server;
beforeEach(async () => {
  server = createServer((socket) => socket.once("data", () => dieAtOnce(socket))).listen(0, "127.0.0.1");
  await once(server, "listening");
});
afterEach(() => server.close());

test("a connection that ends in the packet in which it began is an absence of the database, not our end", async () => {
  const { port } = server.address() as AddressInfo;
  const pool = createPool(
    { host: "127.0.0.1", port, user: "x", password: "x", database: "x" },
    { onIdleError: () => undefined },
  );

  await expect(inTransaction(pool, () => Promise.resolve())).rejects.toMatchObject({ reason: "STORE_UNAVAILABLE" });

  await pool.end();
});

/** Lets the client in and ends its session, in one packet, as a server does that is told to stop in this moment. */
function dieAtOnce(socket: Socket): void {
  const welcome = [message("R", Buffer.alloc(4)), message("Z", Buffer.from("I"))];
  const farewell = message("E", Buffer.from("SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"));
  socket.on("error", () => undefined).end(Buffer.concat([...welcome, farewell]));
}

/** One message of the protocol: a letter, its length, its body. */
function message(type: string, body: Buffer): Buffer {
  const head = Buffer.from(`${type}    `);
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}
