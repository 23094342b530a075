import { type Stats, unwatchFile, watchFile } from "node:fs";
import { readFile } from "node:fs/promises";
import { createSecureContext } from "node:tls";
import type { Logger } from "pino";
import { secureContext, type TlsMaterial } from "./listener.ts";

export interface CertificatesOptions {
  readonly files: CertificateFiles;
  readonly log: Logger;
  /** How often the files are looked at. */
  readonly lookEveryMs?: number;
}

export interface CertificateFiles {
  readonly certFile: string;
  readonly keyFile: string;
  readonly clientCaFile: string | undefined;
}

/** The certificates of the server: read at the start, and again when a file changes or somebody asks; what cannot be used changes nothing. */
export class Certificates {
  readonly #files: CertificateFiles;
  readonly #log: Logger;
  readonly #lookEveryMs: number;
  #current: TlsMaterial | undefined;
  #onChange: (material: TlsMaterial) => void = () => undefined;
  #reading: Promise<void> = Promise.resolve();

  constructor({ files, log, lookEveryMs = 5000 }: CertificatesOptions) {
    this.#files = files;
    this.#log = log;
    this.#lookEveryMs = lookEveryMs;
  }

  /** Reads the files and watches them. Rejects if they cannot be used. */
  async start(): Promise<void> {
    this.#current = await this.#read();
    // By their names and not by what is there now: whoever renews certificates often moves another file or directory into the place.
    for (const path of this.#paths()) watchFile(path, { interval: this.#lookEveryMs, persistent: false }, this.#look);
  }

  async stop(): Promise<void> {
    for (const path of this.#paths()) unwatchFile(path, this.#look);
    await this.#reading;
  }

  get current(): TlsMaterial {
    if (this.#current === undefined) throw new Error("the certificates are not read yet");
    return this.#current;
  }

  /** Says who takes new certificates into use. */
  whenChanged(take: (material: TlsMaterial) => void): void {
    this.#onChange = take;
  }

  /** Reads the files now. Never rejects: with certificates that cannot be used, the old ones stay. */
  reload(): Promise<void> {
    this.#reading = this.#reading.then(() => this.#reload());
    return this.#reading;
  }

  readonly #look = (now: Stats, before: Stats): void => {
    // A file that is away for a moment is being replaced.
    if (now.mtimeMs !== 0 && (now.mtimeMs !== before.mtimeMs || now.ino !== before.ino)) void this.reload();
  };

  async #reload(): Promise<void> {
    try {
      const material = await this.#read();
      if (this.#current !== undefined && isSame(material, this.#current)) return;
      this.#onChange(material);
      this.#current = material;
      this.#log.info({ certificate: this.#files.certFile }, "new certificates are in use");
    } catch (error) {
      this.#log.warn({ err: error }, "the certificates cannot be used as they are; the old ones stay in use");
    }
  }

  async #read(): Promise<TlsMaterial> {
    const { certFile, keyFile, clientCaFile } = this.#files;
    const [cert, key] = await Promise.all([readFile(certFile), readFile(keyFile)]);
    const material = { cert, key, ...(clientCaFile === undefined ? {} : { clientCa: await readFile(clientCaFile) }) };
    createSecureContext(secureContext(material));
    return material;
  }

  #paths(): string[] {
    const { certFile, keyFile, clientCaFile } = this.#files;
    return [certFile, keyFile, ...(clientCaFile === undefined ? [] : [clientCaFile])];
  }
}

function isSame(one: TlsMaterial, other: TlsMaterial): boolean {
  return textOf(one) === textOf(other);
}

function textOf({ cert, key, clientCa = "" }: TlsMaterial): string {
  return [cert, key, clientCa].map(String).join("\n");
}
