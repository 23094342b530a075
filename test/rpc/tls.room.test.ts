import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type PeerCertificate, connect as tlsConnect } from "node:tls";
import { createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ServiceRegistry } from "../../gen/steward/v1/service_registry_pb.ts";
import type { TlsMaterial } from "../../src/rpc/listener.ts";
import { goodSecret, startRig } from "./rig.ts";

let directory: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "steward-tls-"));
});

afterAll(() => rmSync(directory, { recursive: true }));

test("TLS on both ports, HTTP/1.1 and HTTP/2 on the one that speaks everything; a new certificate serves the next connection", async () => {
  const first = certificate("first");
  const second = certificate("second");
  await using rig = await startRig({}, { tls: first });

  for (const [httpVersion, port] of [
    ["1.1", rig.connectPort],
    ["2", rig.connectPort],
  ] as const) {
    const nodeOptions = { ca: first.cert };
    const transport = createConnectTransport({
      baseUrl: `https://localhost:${port}`,
      httpVersion,
      nodeOptions,
      interceptors: [bearer],
    });
    expect((await createClient(ServiceRegistry, transport).list({})).revision).toBe(7n);
  }
  for (const port of [rig.connectPort, rig.grpcPort]) {
    const transport = createGrpcTransport({
      baseUrl: `https://localhost:${port}`,
      nodeOptions: { ca: first.cert },
      interceptors: [bearer],
    });
    const client = createClient(ServiceRegistry, transport);
    expect((await client.list({})).revision).toBe(7n);
    expect((await peerOf(port)).subject.CN).toBe("first");

    rig.server.reloadTls(second);

    expect((await peerOf(port)).subject.CN).toBe("second");
    expect((await client.list({})).revision).toBe(7n);
    rig.server.reloadTls(first);
  }
});

test("with a CA for clients, who shows no certificate does not come in", async () => {
  const ours = certificate("server");
  const client = certificate("client");
  await using rig = await startRig({}, { tls: { ...ours, clientCa: client.cert } });

  for (const port of [rig.connectPort, rig.grpcPort]) {
    const call = (identity: object) => {
      const transport = createGrpcTransport({
        baseUrl: `https://localhost:${port}`,
        nodeOptions: { ca: ours.cert, ...identity },
        interceptors: [bearer],
      });
      return createClient(ServiceRegistry, transport).list({});
    };

    await expect(call({})).rejects.toThrow();
    expect((await call({ cert: client.cert, key: client.key })).revision).toBe(7n);
  }
});

const bearer: Interceptor = (next) => (request) => {
  request.header.set("authorization", `Bearer ${goodSecret}`);
  return next(request);
};

function certificate(name: string): TlsMaterial & { cert: Buffer; key: Buffer } {
  const key = join(directory, `${name}.key`);
  const cert = join(directory, `${name}.crt`);
  const subject = ["-subj", `/CN=${name}`, "-addext", "subjectAltName=DNS:localhost"];
  const kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
  execFileSync("openssl", ["req", "-x509", ...kind, ...subject, "-keyout", key, "-out", cert], { stdio: "ignore" });
  return { cert: readFileSync(cert), key: readFileSync(key) };
}

function peerOf(port: number): Promise<PeerCertificate> {
  return new Promise((resolve, reject) => {
    const socket = tlsConnect({
      port,
      host: "127.0.0.1",
      servername: "localhost",
      rejectUnauthorized: false,
      ALPNProtocols: ["h2"],
    });
    socket.on("error", reject);
    socket.on("secureConnect", () => {
      resolve(socket.getPeerCertificate());
      socket.destroy();
    });
  });
}
