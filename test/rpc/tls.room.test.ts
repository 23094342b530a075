import { once } from "node:events";
import { copyFileSync, mkdirSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { type PeerCertificate, connect as tlsConnect } from "node:tls";
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { ServiceRegistry } from "../../gen/steward/v1/service_registry_pb.ts";
import { AppError } from "../../src/domain/errors.ts";
import type { ClientCertificate, Principal } from "../../src/domain/principal.ts";
import { Certificates } from "../../src/rpc/certificates.ts";
import { CertificateMaker, type TestCertificate } from "../support/certificates.ts";
import { eventually } from "../support/eventually.ts";
import { authenticate, goodSecret, type Rig, startRig } from "./rig.ts";

let maker: CertificateMaker;

beforeAll(() => {
  maker = new CertificateMaker();
});

afterAll(() => maker[Symbol.dispose]());

test("TLS on both ports, HTTP/1.1 and HTTP/2 on the one that speaks everything; a new certificate serves the next connection", async () => {
  const first = maker.make("first");
  const second = maker.make("second");
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
  const ours = maker.make("server");
  const client = maker.make("client");
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

describe("a client certificate", () => {
  let ca: TestCertificate;
  let server: TestCertificate;
  let rig: Rig;
  let shown: ClientCertificate[];
  /** Whose the certificate is, as long as a test does not say otherwise. */
  let known: string;

  beforeAll(async () => {
    ca = maker.make("our authority");
    server = maker.make("server", { signer: ca });
    shown = [];
    known = "spiffe://example.org/nightly";
    rig = await startRig(
      {
        async *watchServices(_request, { signal }) {
          yield { cursor: { revision: 1n } };
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
        },
      },
      {
        tls: { cert: server.cert, key: server.key, clientCa: ca.cert },
        authenticateCertificate: (certificate) => {
          shown.push(certificate);
          if (!certificate.names.includes(known))
            throw new AppError("unauthenticated", "CERTIFICATE_UNKNOWN", "the client certificate is nobody's");
          return nightly;
        },
      },
    );
  });

  afterAll(() => rig[Symbol.asyncDispose]());

  const clientOf = (port: number, { cert, key }: TestCertificate, headers: Record<string, string> = {}) =>
    createClient(
      ServiceRegistry,
      createGrpcTransport({
        baseUrl: `https://localhost:${port}`,
        nodeOptions: { ca: ca.cert, cert, key },
        interceptors: [
          (next) => (request) => {
            for (const [name, value] of Object.entries(headers)) request.header.set(name, value);
            return next(request);
          },
        ],
      }),
    );

  test("says who calls, where no token does", async () => {
    const mine = maker.make("ignored", { names: ["URI:spiffe://example.org/nightly", "DNS:n.example"], signer: ca });
    for (const port of [rig.connectPort, rig.grpcPort]) {
      await clientOf(port, mine).list({});

      expect(rig.calls.at(-1)?.principal.name).toBe("nightly");
      expect(shown.at(-1)?.names).toEqual(["spiffe://example.org/nightly", "n.example"]);
      expect(shown.at(-1)?.expireTime.getTime()).toBeGreaterThan(Date.now());

      await clientOf(port, mine, { authorization: `Bearer ${goodSecret}` }).list({});

      expect(rig.calls.at(-1)?.principal.name).toBe("operator");
    }
  });

  test("that names nobody grants nothing, nor does one beside a wrong token", async () => {
    const stranger = maker.make("stranger", { names: [], signer: ca });
    const mine = maker.make("x", { names: ["URI:spiffe://example.org/nightly"], signer: ca });
    for (const port of [rig.connectPort, rig.grpcPort]) {
      expect(await refusalOf(clientOf(port, stranger).list({}))).toEqual(["Unauthenticated", "CERTIFICATE_UNKNOWN"]);
      expect(shown.at(-1)?.names).toEqual(["stranger"]);

      const withToken = clientOf(port, mine, { authorization: "Bearer sts_wrong" });
      expect(await refusalOf(withToken.list({}))).toEqual(["Unauthenticated", "TOKEN_INVALID"]);
    }
  });

  test("of another authority does not come in, whatever it names", async () => {
    const forged = maker.make("x", { names: ["URI:spiffe://example.org/nightly"] });
    const before = shown.length;
    for (const port of [rig.connectPort, rig.grpcPort]) await expect(clientOf(port, forged).list({})).rejects.toThrow();
    expect(shown.length).toBe(before);
  });

  test("is looked at again while a stream is open", async () => {
    const mine = maker.make("x", { names: ["URI:spiffe://example.org/nightly"], signer: ca });
    for (const port of [rig.connectPort, rig.grpcPort]) {
      known = "spiffe://example.org/nightly";
      const stream = clientOf(port, mine).watchServices({})[Symbol.asyncIterator]();
      await stream.next();

      known = "somebody else";
      rig.server.recheckStreams();

      expect(await refusalOf(stream.next())).toEqual(["Unauthenticated", "CERTIFICATE_UNKNOWN"]);
    }
    known = "spiffe://example.org/nightly";
  });

  test("lets nobody in where the server maps none", async () => {
    const tls = { cert: server.cert, key: server.key, clientCa: ca.cert };
    await using plain = await startRig({}, { tls, authenticate });
    const mine = maker.make("operator", { names: ["DNS:operator"], signer: ca });

    for (const port of [plain.connectPort, plain.grpcPort])
      expect(await refusalOf(clientOf(port, mine).list({}))).toEqual(["Unauthenticated", "TOKEN_MISSING"]);
  });
});

describe("certificates in files", () => {
  test("are used as soon as they have changed, also by another file in their place", async () => {
    const [first, second] = [maker.make("first"), maker.make("second")];
    const place = filesIn("changed", first);
    const certificates = new Certificates({ files: place, log: pino({ level: "silent" }), lookEveryMs: 20 });
    await certificates.start();
    const changes: unknown[] = [];
    certificates.whenChanged(({ cert }) => changes.push(cert));

    // Between the two moves certificate and key do not fit: that must change nothing.
    for (const name of ["certFile", "keyFile"] as const) {
      copyFileSync(second[name], `${place[name]}.new`);
      renameSync(`${place[name]}.new`, place[name]);
    }
    await eventually(() => changes.length > 0);
    await certificates.stop();

    expect(changes).toEqual([second.cert]);
    expect(certificates.current.cert).toEqual(second.cert);
  });

  test("that cannot be used stay out of use and are told of in the log", async () => {
    const first = maker.make("first");
    const place = filesIn("broken", first);
    const log: string[] = [];
    const certificates = new Certificates({ files: place, log: pino({}, { write: (line: string) => log.push(line) }) });
    await certificates.start();
    certificates.whenChanged(() => expect.unreachable());

    writeFileSync(place.certFile, "no certificate");
    await certificates.reload();
    await certificates.stop();

    expect(certificates.current.cert).toEqual(first.cert);
    expect(log.join()).toContain("the old ones stay in use");
  });

  test("are found through links, as they are mounted into containers", async () => {
    const [first, second] = [maker.make("first"), maker.make("second")];
    filesIn("version-1", first);
    filesIn("version-2", second);
    const link = join(maker.directory, "current");
    symlinkSync("version-1", link);
    const files = { certFile: join(link, "tls.crt"), keyFile: join(link, "tls.key"), clientCaFile: undefined };
    const certificates = new Certificates({ files, log: pino({ level: "silent" }), lookEveryMs: 20 });
    await certificates.start();

    symlinkSync("version-2", `${link}.new`);
    renameSync(`${link}.new`, link);
    await eventually(() => certificates.current.cert.toString() === second.cert.toString());
    await certificates.stop();
  });

  test("that cannot be used at the start are a failure to start", async () => {
    const place = filesIn("unfit", maker.make("first"));
    copyFileSync(maker.make("second").keyFile, place.keyFile);

    await expect(new Certificates({ files: place, log: pino({ level: "silent" }) }).start()).rejects.toThrow();
  });

  function filesIn(name: string, { certFile, keyFile }: TestCertificate) {
    const directory = join(maker.directory, name);
    mkdirSync(directory);
    const place = {
      certFile: join(directory, "tls.crt"),
      keyFile: join(directory, "tls.key"),
      clientCaFile: undefined,
    };
    copyFileSync(certFile, place.certFile);
    copyFileSync(keyFile, place.keyFile);
    return place;
  }
});

test.each(["connectPort", "grpcPort"] as const)(
  "who connects and says nothing holds up no stop, on %s",
  async (port) => {
    const aDayMs = 86_400_000;
    await using rig = await startRig({}, { tls: maker.make("server"), limits: { firstByteMs: aDayMs } });
    const silent = connect(rig[port], "127.0.0.1");
    const ended = once(silent, "close");
    silent.on("error", () => undefined);
    await once(silent, "connect");

    await rig.server.stop();

    await ended;
  },
);

test("a stream that is open goes on while certificates change", async () => {
  const [first, second] = [maker.make("first"), maker.make("second")];
  await using rig = await startRig(
    {
      async *watchServices(_request, { signal }) {
        for (let revision = 1n; !signal.aborted; revision += 1n) yield { cursor: { revision } };
      },
    },
    { tls: first },
  );
  for (const port of [rig.connectPort, rig.grpcPort]) {
    const transport = createGrpcTransport({
      baseUrl: `https://localhost:${port}`,
      nodeOptions: { ca: first.cert },
      interceptors: [bearer],
    });
    const stopping = new AbortController();
    const stream = createClient(ServiceRegistry, transport)
      .watchServices({}, { signal: stopping.signal })
      [Symbol.asyncIterator]();
    await stream.next();

    rig.server.reloadTls(second);

    expect((await peerOf(port)).subject.CN).toBe("second");
    for (let count = 0; count < 100; count += 1) expect((await stream.next()).done).toBe(false);
    stopping.abort();
    await expect(stream.next()).rejects.toThrow();
    rig.server.reloadTls(first);
  }
});

const nightly: Principal = {
  kind: "service",
  name: "nightly",
  serviceUid: "u1",
  tokenId: "",
  tokenExpireTime: undefined,
  scopes: ["*"],
};

async function refusalOf(call: Promise<unknown>): Promise<[string | undefined, string | undefined]> {
  const error = await call.then(() => undefined, ConnectError.from);
  return [error && Code[error.code], error?.findDetails(ErrorInfoSchema)[0]?.reason];
}

const bearer: Interceptor = (next) => (request) => {
  request.header.set("authorization", `Bearer ${goodSecret}`);
  return next(request);
};

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
