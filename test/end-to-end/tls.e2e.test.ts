import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { connect as tlsConnect } from "node:tls";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createStewardClient, ErrorReason } from "../../src/client.ts";
import { CertificateMaker, type TestCertificate } from "../support/certificates.ts";
import { eventually } from "../support/eventually.ts";
import { TestSteward } from "./harness.ts";

const entry = fileURLToPath(new URL("../../src/steward.ts", import.meta.url));

let maker: CertificateMaker;
let ca: TestCertificate;
let mine: TestCertificate;
let steward: TestSteward;

beforeAll(async () => {
  maker = new CertificateMaker();
  ca = maker.make("authority");
  mine = maker.make("nightly", { names: ["URI:spiffe://example.org/ops"], signer: ca });
  steward = await TestSteward.start({
    flags: {
      ...use(maker.make("first", { signer: ca })),
      "tls-client-ca": ca.certFile,
      "tls-principal": "spiffe://example.org/ops=operator",
    },
  });
});

afterAll(async () => {
  await steward?.[Symbol.asyncDispose]();
  maker[Symbol.dispose]();
});

test("both ports want a certificate of ours, and the one that is mapped needs no token", async () => {
  const stranger = maker.make("stranger", { signer: ca });
  for (const address of [steward.addresses.connect, steward.addresses.grpc]) {
    expect(address).toMatch(/^https:/);
    using known = createStewardClient({
      address,
      protocol: "grpc",
      tls: { ca: ca.cert, cert: mine.cert, key: mine.key },
    });
    expect(await known.registry.whoAmI({})).toMatchObject({ name: "operator", admin: true });
    using other = createStewardClient({
      address,
      protocol: "grpc",
      tls: { ca: ca.cert, cert: stranger.cert, key: stranger.key },
    });
    await expect(other.registry.whoAmI({})).rejects.toMatchObject({ reason: ErrorReason.CERTIFICATE_UNKNOWN });
  }
});

test("the command line needs neither certificate nor address on the server's host: it takes the socket", async () => {
  const local = await cli("whoami");
  expect(local).toContain(`server unix:${steward.stateDir}/steward.sock`);

  const files = ["--ca-file", ca.certFile, "--cert-file", mine.certFile, "--key-file", mine.keyFile];
  expect(await cli("--address", steward.addresses.connect, ...files, "whoami")).toContain(
    "operator (may do everything)",
  );
});

test("certificates are renewed on SIGHUP, under a stream that goes on", async () => {
  using watcher = createStewardClient({
    address: steward.addresses.grpc,
    protocol: "grpc",
    tls: { ca: ca.cert, cert: mine.cert, key: mine.key },
  });
  const stopping = new AbortController();
  const stream = watcher.supervisor.watchEvents({}, { signal: stopping.signal })[Symbol.asyncIterator]();
  await stream.next();
  expect(await shownBy(steward.addresses.grpc)).toBe("first");

  use(maker.make("second", { signer: ca }));
  process.kill(steward.pid, "SIGHUP");

  for (const address of [steward.addresses.connect, steward.addresses.grpc])
    await eventually(async () => (await shownBy(address)) === "second");
  await watcher.registry.create({
    serviceId: "during",
    service: { spec: { url: "http://127.0.0.1:9", kind: { case: "external", value: {} } } },
  });
  expect((await stream.next()).value?.message.case).toBe("batch");
  stopping.abort();
});

test("an address for everybody without TLS is warned of", async () => {
  await using open = await TestSteward.start({ flags: { listen: "0.0.0.0:0" } });

  await eventually(() => open.log.includes("tokens travel in the clear"));
  expect(steward.log).not.toContain("tokens travel in the clear");
});

/** Puts a certificate where the server reads it. */
function use({ certFile, keyFile }: TestCertificate): { "tls-cert": string; "tls-key": string } {
  const place = { "tls-cert": join(maker.directory, "used.crt"), "tls-key": join(maker.directory, "used.key") };
  copyFileSync(certFile, place["tls-cert"]);
  copyFileSync(keyFile, place["tls-key"]);
  return place;
}

async function cli(...args: readonly string[]): Promise<string> {
  const env = { STEWARD_STATE_DIR: steward.stateDir };
  return (await execa(process.execPath, [entry, ...args], { env })).stdout;
}

/** The common name of the certificate that an address shows. */
function shownBy(address: string): Promise<unknown> {
  const { port } = new URL(address);
  return new Promise((resolve, reject) => {
    const socket = tlsConnect(
      { port: Number(port), host: "127.0.0.1", ca: ca.cert, cert: mine.cert, key: mine.key, ALPNProtocols: ["h2"] },
      () => {
        resolve(socket.getPeerCertificate().subject.CN);
        socket.destroy();
      },
    );
    socket.on("error", reject);
  });
}
