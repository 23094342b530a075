import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Address } from "../../../src/supervisor/probes/address.ts";

/** Servers of a test on loopback; `close` ends them with all their connections. */
export class Neighbours {
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();

  async listen(server: Server, { isTls = false } = {}): Promise<Address> {
    this.#servers.push(server);
    server.on("connection", (socket: Socket) => {
      this.#sockets.add(socket);
      socket.once("close", () => this.#sockets.delete(socket));
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return { host: "127.0.0.1", port: (server.address() as AddressInfo).port, isTls };
  }

  /** One that takes connections and says nothing. */
  silent(): Promise<Address> {
    return this.listen(createServer((socket) => socket.resume().on("error", () => undefined)));
  }

  /** Where nobody listens. */
  async nobody(): Promise<Address> {
    const server = createServer();
    const address = await this.listen(server);
    server.close();
    await once(server, "close");
    return address;
  }

  close(): void {
    for (const server of this.#servers.splice(0)) server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

/** A key and a certificate of somebody's own making. */
export function selfSigned(): { key: Buffer; cert: Buffer } {
  const directory = mkdtempSync(join(tmpdir(), "steward-tls-"));
  const [key, cert] = [join(directory, "key"), join(directory, "cert")];
  const subject = ["-subj", "/CN=somebody-else", "-days", "1"];
  try {
    execFileSync(
      "openssl",
      ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, ...subject],
      {
        stdio: "ignore",
      },
    );
    return { key: readFileSync(key), cert: readFileSync(cert) };
  } finally {
    rmSync(directory, { recursive: true });
  }
}
