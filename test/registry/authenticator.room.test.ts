import { randomUUID } from "node:crypto";
import { describe, expect, test } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import type { TokenSource } from "../../src/registry/authenticator.ts";
import { eventually } from "../support/eventually.ts";
import { call, external, Registry } from "./workbench.ts";

const plain = { service: "", scopes: [], note: "", ttlMs: undefined };
const change = { etag: "", paths: undefined, allowMissing: false };

test("answers without the database", async () => {
  const registry = await Registry.start();
  const { secret } = await registry.tokens.issue(call(), plain);
  await registry.stop();

  expect(registry.authenticator.authenticate(secret).name).toBe("operator");
});

test("refuses what is no token, and nearly one", async () => {
  const { authenticator, tokens } = await Registry.start();
  const { secret } = await tokens.issue(call(), plain);

  for (const wrong of ["", "x", secret.slice(0, -1), `${secret} `, secret.toLowerCase(), "\u0000"])
    expect(() => authenticator.authenticate(wrong)).toThrow(expect.objectContaining({ reason: "TOKEN_INVALID" }));
});

test("taking admin away works on the next call, with tokens that were issued before", async () => {
  const { services, tokens, authenticator } = await Registry.start();
  await services.create(call(), { name: "boss", spec: external({ admin: true, apiToken: "super-secret" }) });
  const { secret } = await tokens.issue(call(), { ...plain, service: "boss" });
  const letIn = authenticator.authenticate(secret);
  expect(letIn.scopes).toEqual(["*"]);

  await services.update(call(), { ...change, name: "boss", paths: ["spec.admin"], spec: { admin: false } });

  expect(authenticator.authenticate(secret).scopes).toEqual([]);
  expect(authenticator.authenticate("super-secret").scopes).toEqual([]);
  expect(authenticator.reauthenticate(letIn).scopes).toEqual([]);
});

describe("a client certificate", () => {
  const certificates = [
    { name: "spiffe://x/ops", holder: { kind: "operator" } },
    { name: "boss.example", holder: { kind: "service", service: "boss" } },
  ] as const;
  const of = (...names: string[]) => ({ names, expireTime: new Date("2100-01-01") });

  test("is the operator's or a service's, by the first grant for one of its names", async () => {
    const { services, authenticator } = await Registry.start({ certificates });
    expect(() => authenticator.authenticateCertificate(of("boss.example"))).toThrow("does not exist");
    await services.create(call(), { name: "boss", spec: external({ admin: true }) });

    expect(authenticator.authenticateCertificate(of("x", "spiffe://x/ops"))).toMatchObject({
      kind: "operator",
      scopes: ["*"],
      tokenExpireTime: new Date("2100-01-01"),
    });
    expect(authenticator.authenticateCertificate(of("boss.example"))).toMatchObject({
      kind: "service",
      name: "boss",
      scopes: ["*"],
    });
    expect(authenticator.authenticateCertificate(of("boss.example", "spiffe://x/ops")).kind).toBe("operator");
  });

  test("that nobody is granted is refused, and so is one whose time is over", async () => {
    const { authenticator, clock } = await Registry.start({ certificates });

    for (const names of [[], ["x"], ["spiffe://x/op"], ["spiffe://x/ops2"], ["SPIFFE://x/ops"]])
      expect(() => authenticator.authenticateCertificate(of(...names))).toThrow(
        expect.objectContaining({ reason: "CERTIFICATE_UNKNOWN" }),
      );
    const short = { names: ["spiffe://x/ops"], expireTime: new Date(clock.now().getTime() + 60_000) };
    expect(authenticator.authenticateCertificate(short).kind).toBe("operator");
    clock.move(60_001);
    expect(() => authenticator.authenticateCertificate(short)).toThrow(
      expect.objectContaining({ reason: "CERTIFICATE_EXPIRED" }),
    );
  });

  test("has the rights of its service on the next call, whoever changes them", async () => {
    const { services, authenticator, database } = await Registry.start({ certificates });
    const other = await Registry.start({ on: database, certificates });
    await services.create(call(), { name: "boss", spec: external({ admin: true }) });
    await eventually(() => rightsOf(other) === "*");

    await services.update(call(), { ...change, name: "boss", paths: ["spec.admin"], spec: { admin: false } });
    expect(authenticator.authenticateCertificate(of("boss.example")).scopes).toEqual([]);
    await eventually(() => rightsOf(other) === "");

    await services.delete(call(), { name: "boss", etag: "", force: false, allowMissing: false });
    for (const each of [{ authenticator }, other]) await eventually(() => rightsOf(each) === "CERTIFICATE_UNKNOWN");
  });

  function rightsOf({ authenticator }: Pick<Registry, "authenticator">): string {
    try {
      return authenticator.authenticateCertificate(of("boss.example")).scopes.join();
    } catch (error) {
      return error instanceof AppError ? error.reason : String(error);
    }
  }
});

test("whom it let in it knows again, until the token has ended", async () => {
  const { services, tokens, authenticator } = await Registry.start();
  await services.create(call(), { name: "web", spec: external() });
  const ofService = await tokens.issue(call(), { ...plain, service: "web" });
  const operators = await tokens.issue(call(), plain);
  const [one, two] = [ofService, operators].map(({ secret }) => authenticator.authenticate(secret));
  if (one === undefined || two === undefined) throw new Error("nobody was let in");
  expect(authenticator.reauthenticate(two)).toEqual(two);

  await tokens.revoke(call(), { tokenId: two.tokenId });
  await services.delete(call(), { name: "web", etag: "", force: false, allowMissing: false });

  for (const each of [one, two])
    expect(() => authenticator.reauthenticate(each)).toThrow(expect.objectContaining({ reason: "TOKEN_REVOKED" }));
});

test("what another server changes is known as soon as the event log tells", async () => {
  const one = await Registry.start();
  const other = await Registry.start({ on: one.database });
  await one.services.create(call(), { name: "boss", spec: external({ admin: true }) });

  const ofBoss = await one.tokens.issue(call(), { ...plain, service: "boss" });
  const operators = await one.tokens.issue(call(), plain);
  await eventually(() => other.authenticator.authenticate(operators.secret).name === "operator");
  expect(other.authenticator.authenticate(ofBoss.secret).scopes).toEqual(["*"]);

  await one.services.update(call(), { ...change, name: "boss", paths: ["spec.admin"], spec: { admin: false } });
  await eventually(() => other.authenticator.authenticate(ofBoss.secret).scopes.length === 0);

  const { secret: successor } = await one.tokens.rotate(call(), { tokenId: operators.token.id, overlapMs: 0 });
  await eventually(() => other.authenticator.authenticate(successor).name === "operator");
  expect(() => other.authenticator.authenticate(operators.secret)).toThrow(
    expect.objectContaining({ reason: "TOKEN_EXPIRED" }),
  );

  await one.services.delete(call(), { name: "boss", etag: "", force: false, allowMissing: false });
  await eventually(() => {
    expect(() => other.authenticator.authenticate(ofBoss.secret)).toThrow(
      expect.objectContaining({ code: "unauthenticated" }),
    );
    return true;
  });
});

test("knows after a start what was before it, and forgets nothing that ended lately", async () => {
  const one = await Registry.start();
  const kept = await one.tokens.issue(call(), plain);
  const ended = await one.tokens.issue(call(), plain);
  await one.tokens.revoke(call(), { tokenId: ended.token.id });
  await one.stop();

  const { authenticator } = await Registry.start({ on: one.database });

  expect(authenticator.authenticate(kept.secret).tokenId).toBe(kept.token.id);
  expect(() => authenticator.authenticate(ended.secret)).toThrow(expect.objectContaining({ reason: "TOKEN_REVOKED" }));
});

test("an answer of the database that is late does not bring back what has ended meanwhile", async () => {
  const late = Promise.withResolvers<void>();
  const asked = Promise.withResolvers<void>();
  let holdNext = false;
  const registry = await Registry.start({
    wrap: (source) => ({
      ...bound(source),
      async byId(id) {
        const answer = await source.byId(id);
        if (!holdNext) return answer;
        holdNext = false;
        asked.resolve();
        await late.promise;
        return answer;
      },
    }),
  });
  const { token, secret } = await registry.tokens.issue(call(), plain);
  holdNext = true;

  const early = registry.authenticator.refreshTokens([token.id]);
  await asked.promise;
  const revoked = registry.tokens.revoke(call(), { tokenId: token.id });
  await eventually(async () => (await registry.store.tokens.byId(token.id))?.token.revokeTime !== undefined);
  late.resolve();
  await Promise.all([early, revoked]);

  expect(() => registry.authenticator.authenticate(secret)).toThrow(
    expect.objectContaining({ reason: "TOKEN_REVOKED" }),
  );
});

test("goes on after reads that failed", async () => {
  let failures = 0;
  const one = await Registry.start();
  const other = await Registry.start({
    on: one.database,
    wrap: (source) => ({
      ...bound(source),
      async byId(id) {
        if (failures++ < 2) throw new Error("the database is away");
        return source.byId(id);
      },
    }),
  });

  const { secret } = await one.tokens.issue(call(), plain);

  await eventually(() => other.authenticator.authenticate(secret).name === "operator");
  expect(other.failures).toHaveLength(2);
});

test("notes when a token was last used", async () => {
  const registry = await Registry.start();
  const { token, secret } = await registry.tokens.issue(call(), plain);
  const before = Date.now();
  for (let n = 0; n < 3; n++) registry.authenticator.authenticate(secret);

  await registry.authenticator.stop();

  const used = (await registry.store.tokens.byId(token.id))?.token.lastUsedTime;
  expect(Number(used)).toBeGreaterThanOrEqual(before);
  expect(await registry.eventTypes()).toEqual(["token_issued"]);
});

test("notes no use of a token that does not exist", async () => {
  const registry = await Registry.start();
  expect(() => registry.authenticator.authenticate(randomUUID())).toThrow();

  await registry.authenticator.stop();

  expect(registry.failures).toEqual([]);
});

/** The methods of a source, to replace some of them. */
function bound(source: TokenSource): TokenSource {
  return {
    all: () => source.all(),
    ofService: (uid) => source.ofService(uid),
    byId: (id) => source.byId(id),
    noteUse: (uses) => source.noteUse(uses),
  };
}
