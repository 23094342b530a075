import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface TestCertificate {
  readonly certFile: string;
  readonly keyFile: string;
  readonly cert: Buffer;
  readonly key: Buffer;
}

/** Makes real certificates with openssl, in a directory that is gone afterwards. */
export class CertificateMaker implements Disposable {
  readonly directory = mkdtempSync(join(tmpdir(), "steward-tls-"));
  #made = 0;

  /** Signed by itself, or by another. */
  make(
    commonName: string,
    { names = ["DNS:localhost", "IP:127.0.0.1"], signer }: { names?: readonly string[]; signer?: TestCertificate } = {},
  ): TestCertificate {
    this.#made += 1;
    const base = join(this.directory, String(this.#made));
    const [certFile, keyFile] = [`${base}.crt`, `${base}.key`];
    const subject = ["-subj", `/CN=${commonName}`];
    const extensions = names.length === 0 ? [] : ["-addext", `subjectAltName=${names.join(",")}`];
    const kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    const signed = signer === undefined ? [] : ["-CA", signer.certFile, "-CAkey", signer.keyFile];
    execFileSync(
      "openssl",
      ["req", "-x509", ...kind, ...subject, ...extensions, ...signed, "-keyout", keyFile, "-out", certFile],
      { stdio: ["ignore", "ignore", "ignore"] },
    );
    return { certFile, keyFile, cert: readFileSync(certFile), key: readFileSync(keyFile) };
  }

  [Symbol.dispose](): void {
    rmSync(this.directory, { recursive: true });
  }
}
