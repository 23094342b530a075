/** A token as it is stored: its digest is apart, its secret nowhere. */
export interface Token {
  readonly id: string;
  /** The service that it belongs to; undefined: an operator's. */
  readonly service: { readonly name: string; readonly uid: string } | undefined;
  /** The first characters of the secret; empty for a supplied one. */
  readonly hint: string;
  /** At most these; `inherit` stands for all that the owner may do. */
  readonly scopes: readonly string[];
  readonly note: string;
  readonly source: TokenSource;
  readonly createdBy: string;
  readonly createTime: Date;
  readonly expireTime: Date | undefined;
  readonly revokeTime: Date | undefined;
  readonly lastUsedTime: Date | undefined;
  readonly replacedBy: string | undefined;
}

export type TokenSource = "issued" | "supplied" | "instance" | "bootstrap";

export type TokenState = "active" | "expired" | "revoked";

export function tokenState(token: Pick<Token, "expireTime" | "revokeTime">, now: Date): TokenState {
  if (token.revokeTime !== undefined) return "revoked";
  return token.expireTime !== undefined && token.expireTime <= now ? "expired" : "active";
}
