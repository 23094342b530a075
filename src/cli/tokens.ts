import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { IssueTokenResponseSchema, RotateTokenResponseSchema } from "../../gen/steward/v1/service_registry_pb.ts";
import { type Token, TokenSchema } from "../../gen/steward/v1/token_pb.ts";
import type { Session } from "./command.ts";
import { age, clockTime, type OutputFormat, printList, printMessage, printTable } from "./print.ts";
import { tokenWord } from "./words.ts";

/** `steward token issue [SERVICE]`: the secret goes to standard output alone, so that a script can keep it. */
export async function issueToken(
  session: Session,
  service: string | undefined,
  options: { scope: string[]; note?: string; ttl?: number; output: OutputFormat },
): Promise<void> {
  const response = await session.registry.issueToken(
    {
      service: service ?? "",
      scopes: options.scope,
      note: options.note ?? "",
      ...(options.ttl === undefined ? {} : { ttl: durationFromMs(options.ttl) }),
    },
    { signal: session.signal },
  );
  if (options.output === "json" || options.output === "yaml")
    return printMessage(session.screen, options.output, IssueTokenResponseSchema, response);
  session.screen.write(`${response.secret}\n`);
  session.screen.writeError(`token ${response.token?.id ?? ""} issued; this is the only time it is shown\n`);
}

/** `steward token list [SERVICE]`. */
export async function listTokens(
  session: Session,
  service: string | undefined,
  options: { all?: boolean; output: OutputFormat },
): Promise<void> {
  const tokens: Token[] = [];
  let pageToken = "";
  do {
    const request = { service: service ?? "", showEnded: options.all === true, pageToken, pageSize: 1_000 };
    const page = await session.registry.listTokens(request, { signal: session.signal });
    tokens.push(...page.tokens);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  if (options.output === "name") return session.screen.write(tokens.map((token) => `${token.id}\n`).join(""));
  if (options.output !== "table") return printList(session.screen, options.output, TokenSchema, tokens);
  const header = ["ID", "OWNER", "HINT", "STATE", "AGE", "EXPIRES", "LAST USED", "SCOPES", "NOTE"];
  printTable(session.screen, header, tokens.map(tokenRow));
}

/** `steward token rotate ID`. */
export async function rotateToken(
  session: Session,
  tokenId: string,
  options: { overlap?: number; output: OutputFormat },
): Promise<void> {
  const overlap = options.overlap === undefined ? {} : { overlap: durationFromMs(options.overlap) };
  const response = await session.registry.rotateToken({ tokenId, ...overlap }, { signal: session.signal });
  if (options.output === "json" || options.output === "yaml")
    return printMessage(session.screen, options.output, RotateTokenResponseSchema, response);
  session.screen.write(`${response.secret}\n`);
  session.screen.writeError(`token ${tokenId} works until ${clockTime(response.replaced?.expireTime)}\n`);
}

/** `steward token revoke ID…`. */
export async function revokeTokens(session: Session, tokenIds: readonly string[]): Promise<void> {
  for (const tokenId of tokenIds) {
    await session.registry.revokeToken({ tokenId }, { signal: session.signal });
    session.screen.write(`${tokenId} revoked\n`);
  }
}

function tokenRow(token: Token): string[] {
  return [
    token.id,
    token.service || "operator",
    token.hint || "-",
    tokenWord(token.state),
    age(token.createTime),
    token.expireTime === undefined ? "never" : clockTime(token.expireTime),
    token.lastUsedTime === undefined ? "never" : age(token.lastUsedTime),
    token.scopes.join(" "),
    token.note,
  ];
}
