import { AppError } from "../domain/errors.ts";
import type { ClientCertificate, Principal } from "../domain/principal.ts";
import type { Service } from "../domain/service.ts";

/** Whose certificate it is that carries a name. */
export interface CertificateGrant {
  /** A URI, a DNS name or a common name, in full: nothing stands for something else. */
  readonly name: string;
  readonly holder: { readonly kind: "operator" } | { readonly kind: "service"; readonly service: string };
}

/** What deciding on a certificate needs of the store. */
export interface ServiceByName {
  byName(name: string): Promise<{ readonly service: Service | undefined }>;
}

/** Tells whose client certificate it is, from memory. Without a grant for one of its names a certificate lets nobody do anything. */
export class CertificateHolders {
  readonly #grants: readonly CertificateGrant[];
  readonly #source: ServiceByName;
  readonly #services = new Map<string, Service>();

  constructor(grants: readonly CertificateGrant[], source: ServiceByName) {
    this.#grants = grants;
    this.#source = source;
  }

  /** Reads the services that hold certificates again. They are few: all are read, whichever has changed. */
  async refresh(): Promise<void> {
    const names = new Set(this.#grants.flatMap(({ holder }) => (holder.kind === "service" ? [holder.service] : [])));
    await Promise.all([...names].map((name) => this.#read(name)));
  }

  /** Who may do what with this certificate now: the first grant that names it counts. Throws unauthenticated. */
  principalOf({ names, expireTime }: ClientCertificate, now: Date): Principal {
    // The connection may be older than the end of the certificate that opened it.
    if (expireTime <= now) throw refused("CERTIFICATE_EXPIRED", "the client certificate has expired");
    const grant = this.#grants.find(({ name }) => names.includes(name));
    if (grant === undefined)
      throw refused("CERTIFICATE_UNKNOWN", `the client certificate is nobody's: ${shown(names)}`);
    const shared = { tokenId: "", tokenExpireTime: expireTime };
    const { holder } = grant;
    if (holder.kind === "operator")
      return { ...shared, kind: "operator", name: "operator", serviceUid: undefined, scopes: ["*"] };
    const service = this.#services.get(holder.service);
    if (service === undefined)
      throw refused("CERTIFICATE_UNKNOWN", `the service of the client certificate does not exist: ${holder.service}`);
    const scopes = service.spec.admin ? ["*"] : [];
    return { ...shared, kind: "service", name: service.name, serviceUid: service.uid, scopes };
  }

  async #read(name: string): Promise<void> {
    const { service } = await this.#source.byName(name);
    if (service === undefined || service.wish === "deleted") this.#services.delete(name);
    else this.#services.set(name, service);
  }
}

function shown(names: readonly string[]): string {
  return names.length === 0 ? "it has no name" : names.slice(0, 8).join(", ");
}

function refused(reason: "CERTIFICATE_UNKNOWN" | "CERTIFICATE_EXPIRED", message: string): AppError {
  return new AppError("unauthenticated", reason, message);
}
