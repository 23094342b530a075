import { create } from "@bufbuild/protobuf";
import * as proto from "../../gen/steward/v1/token_pb.ts";
import { type Token, type TokenSource, type TokenState, tokenState } from "../domain/token.ts";
import { timeToProto } from "./convert-time.ts";

/** A token as it can be shown, with its state at the given time. */
export function tokenToProto(token: Token, now: Date): proto.Token {
  return create(proto.TokenSchema, {
    id: token.id,
    service: token.service?.name ?? "",
    hint: token.hint,
    scopes: [...token.scopes],
    note: token.note,
    source: tokenSources[token.source],
    state: tokenStates[tokenState(token, now)],
    createdBy: token.createdBy,
    createTime: timeToProto(token.createTime),
    expireTime: timeToProto(token.expireTime),
    revokeTime: timeToProto(token.revokeTime),
    lastUsedTime: timeToProto(token.lastUsedTime),
    replacedBy: token.replacedBy ?? "",
  });
}

export const tokenSources: Readonly<Record<TokenSource, proto.TokenSource>> = {
  issued: proto.TokenSource.ISSUED,
  supplied: proto.TokenSource.SUPPLIED,
  instance: proto.TokenSource.INSTANCE,
  bootstrap: proto.TokenSource.BOOTSTRAP,
};

export const tokenStates: Readonly<Record<TokenState, proto.TokenState>> = {
  active: proto.TokenState.ACTIVE,
  expired: proto.TokenState.EXPIRED,
  revoked: proto.TokenState.REVOKED,
};
