import { AppError } from "../domain/errors.ts";
import type { ClientCertificate, Principal } from "../domain/principal.ts";

/** Tells who a secret belongs to, from memory. Throws unauthenticated with TOKEN_INVALID, TOKEN_EXPIRED or TOKEN_REVOKED. */
export type Authenticate = (secret: string) => Principal;

/** Tells who shows a certificate, from memory. Throws unauthenticated with CERTIFICATE_UNKNOWN or CERTIFICATE_EXPIRED. */
export type AuthenticateCertificate = (certificate: ClientCertificate) => Principal;

/** How a caller shows who it is. */
export interface Credentials {
  readonly authorization: string | undefined;
  /** What the client of a TLS connection showed, and our client CA signed. */
  readonly certificate: ClientCertificate | undefined;
}

export interface GateOptions {
  readonly authenticate: Authenticate;
  readonly authenticateCertificate?: AuthenticateCertificate;
}

/** Where a call says who it is: by its token or, only without one, by the certificate of its connection. */
export class Gate {
  readonly #authenticate: Authenticate;
  readonly #authenticateCertificate: AuthenticateCertificate | undefined;

  constructor({ authenticate, authenticateCertificate }: GateOptions) {
    this.#authenticate = authenticate;
    this.#authenticateCertificate = authenticateCertificate;
  }

  /** How to find out who calls, now and again later, when rights may have changed. Throws TOKEN_MISSING, TOKEN_INVALID. */
  identify({ authorization, certificate }: Credentials): () => Principal {
    const authenticateCertificate = this.#authenticateCertificate;
    if (!authorization && certificate !== undefined && authenticateCertificate !== undefined)
      return () => authenticateCertificate(certificate);
    const secret = secretOf(authorization);
    return () => this.#authenticate(secret);
  }
}

/** Who calls a method that asks for no token. */
export const anybody: Principal = {
  kind: "service",
  name: "anonymous",
  serviceUid: undefined,
  tokenId: "",
  tokenExpireTime: undefined,
  scopes: [],
};

const longestSecret = 4096;

/** Takes the secret out of an Authorization header (`Bearer SECRET` or `token SECRET`). Throws TOKEN_MISSING, TOKEN_INVALID. Nothing else is looked at: never a cookie, never a query. */
function secretOf(authorization: string | undefined): string {
  if (authorization === undefined || authorization === "") {
    throw new AppError("unauthenticated", "TOKEN_MISSING", "a token is needed: Authorization: Bearer TOKEN");
  }
  const secret = withoutScheme(authorization);
  if (secret === undefined || secret === "" || secret.length > longestSecret) {
    throw new AppError("unauthenticated", "TOKEN_INVALID", "the Authorization header is not of the form: Bearer TOKEN");
  }
  return secret;
}

// Schemes are compared without regard to case (RFC 9110, 11.1).
function withoutScheme(authorization: string): string | undefined {
  const space = authorization.indexOf(" ");
  if (space !== 6 && space !== 5) return undefined;
  const scheme = authorization.slice(0, space);
  const known = scheme === "Bearer" || scheme === "token" || /^(bearer|token)$/i.test(scheme);
  return known ? authorization.slice(space + 1).trim() : undefined;
}
