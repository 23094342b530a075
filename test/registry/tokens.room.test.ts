import { randomUUID } from "node:crypto";
import { describe, expect, test } from "vitest";
import { looksMinted, TokenKeys } from "../../src/domain/token-secret.ts";
import { eventually } from "../support/eventually.ts";
import { call, caller, external, managed, Registry } from "./workbench.ts";

const hour = 3_600_000;
const plain = { service: "", scopes: [] as string[], note: "", ttlMs: undefined };
const allTokens = { service: "", showEnded: true, pageSize: 0, pageToken: "" };
const remove = { etag: "", force: true, allowMissing: false };
const change = { etag: "", paths: undefined, allowMissing: false };

describe("issuing", () => {
  test("shows a secret with a checksum once and stores its HMAC alone", async () => {
    const registry = await Registry.start();

    const { token, secret, revision } = await registry.tokens.issue(call(), { ...plain, note: "for the dashboard" });

    expect(looksMinted(secret)).toBe(true);
    expect(looksMinted(`${secret.slice(0, -1)}${secret.endsWith("0") ? "1" : "0"}`)).toBe(false);
    expect(token).toMatchObject({
      note: "for the dashboard",
      scopes: ["inherit"],
      source: "issued",
      hint: secret.slice(0, 8),
    });
    const [row] = await registry.rows<{ digest: Buffer }>("SELECT * FROM tokens");
    expect(row?.digest).toEqual(registry.keys.digest(secret));
    expect(registry.keys.digest(secret)).not.toEqual(new TokenKeys(Buffer.alloc(32, 8)).digest(secret));
    expect(JSON.stringify(row)).not.toContain(secret.slice(8));
    expect((await registry.events()).at(-1)).toMatchObject({
      revision,
      body: { type: "token_issued", tokenId: token.id },
    });
  });

  test("lets the token be used before the call has returned its secret", async () => {
    const { tokens, services, authenticator } = await Registry.start();
    await services.create(call(), { name: "boss", spec: external({ admin: true }) });

    const operators = await tokens.issue(call(), plain);
    const ofBoss = await tokens.issue(call(), { ...plain, service: "boss" });

    expect(authenticator.authenticate(operators.secret)).toMatchObject({
      kind: "operator",
      name: "operator",
      scopes: ["*"],
    });
    expect(authenticator.authenticate(ofBoss.secret)).toMatchObject({ kind: "service", name: "boss", scopes: ["*"] });
  });

  test("for a service that is missing is not found and leaves nothing", async () => {
    const registry = await Registry.start();
    const before = await registry.remains();

    await expect(
      registry.tokens.issue(call({ requestId: randomUUID() }), { ...plain, service: "web" }),
    ).rejects.toMatchObject({ code: "not_found" });

    expect(await registry.remains()).toEqual(before);
  });

  test("that only validates shows no secret and leaves nothing", async () => {
    const registry = await Registry.start();
    const before = await registry.remains();

    const would = await registry.tokens.issue(call({ validateOnly: true }), plain);

    expect(would).toMatchObject({ secret: "", revision: 0n, token: { id: "", hint: "" } });
    expect(await registry.remains()).toEqual(before);
  });

  test("with a time to live ends the token then", async () => {
    const { tokens, authenticator, clock } = await Registry.start();
    const { secret } = await tokens.issue(call(), { ...plain, ttlMs: hour });
    expect(authenticator.authenticate(secret).tokenExpireTime).toBeInstanceOf(Date);

    clock.move(hour);

    expect(() => authenticator.authenticate(secret)).toThrow(expect.objectContaining({ reason: "TOKEN_EXPIRED" }));
  });

  test.each([
    "no:scope",
    "inherit!service=web",
    "read:services!service=",
    "read:services!service=a!service=b",
    "*",
    "",
  ])("refuses %j as a scope and says which there are", async (scope) => {
    const { tokens } = await Registry.start();

    await expect(tokens.issue(call(), { ...plain, scopes: ["read:services", scope] })).rejects.toMatchObject({
      violations: [{ field: "scopes[1]", description: expect.stringContaining("control:services") }],
    });
  });
});

describe("what a token grants", () => {
  test.each([
    ["an operator's that inherits", ["tokens:services"], []],
    ["a scope that its issuer lacks", ["tokens:services"], ["admin:services"]],
    [
      "a scope everywhere of an issuer that has it for one service",
      ["tokens:services", "read:services!service=web"],
      ["read:services"],
    ],
    ["a scope for another service", ["tokens:services", "read:services!service=web"], ["read:services!service=other"]],
  ])("is never more than its issuer has: %s", async (_, has, scopes) => {
    const registry = await Registry.start();
    const before = await registry.remains();

    await expect(registry.tokens.issue(caller(...has), { ...plain, scopes })).rejects.toMatchObject({
      code: "permission_denied",
    });

    expect(await registry.remains()).toEqual(before);
  });

  test("is never more than its issuer has, for a service that is an admin", async () => {
    const { tokens, services } = await Registry.start();
    await services.create(call(), { name: "boss", spec: external({ admin: true }) });

    await expect(tokens.issue(caller("tokens:services"), { ...plain, service: "boss" })).rejects.toMatchObject({
      code: "permission_denied",
    });
  });

  test("is never more than who rotates it has", async () => {
    const { tokens } = await Registry.start();
    const { token } = await tokens.issue(call(), plain);

    const rotated = tokens.rotate(caller("tokens:services"), { tokenId: token.id, overlapMs: undefined });

    await expect(rotated).rejects.toMatchObject({ code: "permission_denied" });
  });

  test("may be as much or less", async () => {
    const { tokens, authenticator } = await Registry.start();
    const issuer = caller("tokens:services", "read:services", "read:services:logs!service=web");
    const scopes = ["read:services!service=web", "read:services:logs!service=web"];

    const { secret } = await tokens.issue(issuer, { ...plain, scopes });

    expect(authenticator.authenticate(secret).scopes).toEqual(scopes);
  });

  test("is nothing while its service is no admin, and all of its scopes once it is", async () => {
    const { tokens, services, authenticator } = await Registry.start();
    await services.create(call(), { name: "web", spec: external() });
    const { secret } = await tokens.issue(call(), { ...plain, service: "web", scopes: ["read:services"] });
    expect(authenticator.authenticate(secret).scopes).toEqual([]);

    await services.update(call(), { ...change, name: "web", spec: { admin: true } });

    expect(authenticator.authenticate(secret).scopes).toEqual(["read:services"]);
  });
});

describe("rotating", () => {
  test("gives a successor with the same rights and lets the old one work for the overlap", async () => {
    const registry = await Registry.start();
    const { tokens, authenticator, clock } = registry;
    const old = await tokens.issue(call(), { ...plain, scopes: ["read:services"], note: "n" });

    const next = await tokens.rotate(call(), { tokenId: old.token.id, overlapMs: hour });

    expect(next.token).toMatchObject({ scopes: ["read:services"], note: "n" });
    expect(next.replaced).toMatchObject({ id: old.token.id, replacedBy: next.token.id });
    expect((await registry.events()).at(-1)?.body).toEqual({
      type: "token_rotated",
      tokenId: old.token.id,
      replacedBy: next.token.id,
    });
    expect(authenticator.authenticate(old.secret).tokenId).toBe(old.token.id);
    expect(authenticator.authenticate(next.secret).tokenId).toBe(next.token.id);
    clock.move(hour);
    expect(() => authenticator.authenticate(old.secret)).toThrow(expect.objectContaining({ reason: "TOKEN_EXPIRED" }));
    expect(authenticator.authenticate(next.secret).tokenId).toBe(next.token.id);
  });

  test("lets the old one work for a day unless told otherwise, and never longer than it would have", async () => {
    const { tokens, clock } = await Registry.start();
    const long = await tokens.issue(call(), plain);
    const short = await tokens.issue(call(), { ...plain, ttlMs: hour });
    const before = clock.now().getTime();

    const ofLong = await tokens.rotate(call(), { tokenId: long.token.id, overlapMs: undefined });
    const ofShort = await tokens.rotate(call(), { tokenId: short.token.id, overlapMs: undefined });

    expect(Number(ofLong.replaced.expireTime) - before).toBeGreaterThanOrEqual(24 * hour);
    expect(ofShort.replaced.expireTime).toEqual(short.token.expireTime);
    expect(ofShort.token.expireTime).toEqual(short.token.expireTime);
  });

  test("is refused for a token that was rotated or has ended, and for those of processes", async () => {
    const { tokens, services } = await Registry.start();
    const rotated = await tokens.issue(call(), plain);
    await tokens.rotate(call(), { tokenId: rotated.token.id, overlapMs: undefined });
    const revoked = await tokens.issue(call(), plain);
    await tokens.revoke(call(), { tokenId: revoked.token.id });
    await services.create(call(), { name: "web", spec: external({ apiToken: "super-secret" }) });
    const [supplied] = (await tokens.list({ ...allTokens, service: "web" })).tokens;
    const rotate = (tokenId = "") => tokens.rotate(call(), { tokenId, overlapMs: undefined });

    await expect(rotate(rotated.token.id)).rejects.toMatchObject({ code: "failed_precondition" });
    await expect(rotate(revoked.token.id)).rejects.toMatchObject({ reason: "TOKEN_REVOKED" });
    await expect(rotate(supplied?.id)).rejects.toMatchObject({
      message: expect.stringContaining("change the api_token"),
    });
    await expect(rotate(randomUUID())).rejects.toMatchObject({ reason: "TOKEN_NOT_FOUND" });
  });

  test("of two at once gives one successor", async () => {
    const { tokens } = await Registry.start();
    const { token } = await tokens.issue(call(), plain);

    const outcomes = await Promise.allSettled(
      Array.from({ length: 5 }, () => tokens.rotate(call(), { tokenId: token.id, overlapMs: undefined })),
    );

    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect((await tokens.list(allTokens)).tokens).toHaveLength(2);
  });
});

describe("revoking", () => {
  test("works before the call returns, and once", async () => {
    const registry = await Registry.start();
    const { token, secret } = await registry.tokens.issue(call(), plain);

    const { token: revoked } = await registry.tokens.revoke(call(), { tokenId: token.id });
    const { token: again } = await registry.tokens.revoke(call(), { tokenId: token.id });

    expect(() => registry.authenticator.authenticate(secret)).toThrow(
      expect.objectContaining({ reason: "TOKEN_REVOKED" }),
    );
    expect(again).toEqual(revoked);
    expect(await registry.eventTypes()).toEqual(["token_issued", "token_revoked"]);
  });

  test("ends all tokens of a service that is deleted, and says so", async () => {
    const registry = await Registry.start();
    const { tokens, services, authenticator } = registry;
    await services.create(call(), { name: "web", spec: external({ apiToken: "super-secret", admin: true }) });
    const { secret } = await tokens.issue(call(), { ...plain, service: "web" });

    await services.delete(call(), { ...remove, name: "web" });

    for (const each of [secret, "super-secret"])
      expect(() => authenticator.authenticate(each)).toThrow(expect.objectContaining({ code: "unauthenticated" }));
    expect((await registry.eventTypes()).filter((type) => type === "token_revoked")).toHaveLength(2);
  });
});

describe("listing", () => {
  test("pages through tokens, newest first, with the ended ones only where asked", async () => {
    const { tokens } = await Registry.start();
    const issued: string[] = [];
    for (let n = 0; n < 5; n++) issued.push((await tokens.issue(call(), plain)).token.id);
    await tokens.revoke(call(), { tokenId: issued[2] ?? "" });

    const first = await tokens.list({ ...allTokens, pageSize: 3 });
    const second = await tokens.list({ ...allTokens, pageSize: 3, pageToken: first.nextPageToken });
    const working = await tokens.list({ ...allTokens, showEnded: false });

    expect([...first.tokens, ...second.tokens].map(({ id }) => id)).toEqual(issued.toReversed());
    expect(second.nextPageToken).toBe("");
    expect(working.tokens.map(({ id }) => id)).toEqual(issued.toReversed().filter((id) => id !== issued[2]));
  });
});

describe("the api_token of a spec", () => {
  test("works from 8 characters on, with a warning below 32", async () => {
    const { services, authenticator } = await Registry.start();
    const strong = "x".repeat(32);

    const weak = await services.create(call(), { name: "weak", spec: external({ apiToken: "8-chars!" }) });
    const good = await services.create(call(), { name: "good", spec: external({ apiToken: strong }) });

    expect(weak.warnings).toEqual(["weak: the api_token has 8 characters; 32 or more are recommended"]);
    expect(good.warnings).toEqual([]);
    expect(authenticator.authenticate("8-chars!").name).toBe("weak");
    expect(authenticator.authenticate(strong).name).toBe("good");
  });

  test("of another service is refused, in an update too, and leaves nothing", async () => {
    const registry = await Registry.start();
    const { services } = registry;
    await services.create(call(), { name: "one", spec: external({ apiToken: "super-secret" }) });
    await services.create(call(), { name: "two", spec: external() });
    const before = await registry.remains();

    await expect(
      services.create(call(), { name: "three", spec: external({ apiToken: "super-secret" }) }),
    ).rejects.toMatchObject({ reason: "TOKEN_IN_USE" });
    await expect(
      services.update(call(), { ...change, name: "two", spec: { apiToken: "super-secret" } }),
    ).rejects.toMatchObject({ reason: "TOKEN_IN_USE" });

    expect(await registry.remains()).toEqual(before);
  });

  test("ends the one before when it is changed, and may be cleared by its mask only", async () => {
    const { services, authenticator } = await Registry.start();
    await services.create(call(), { name: "web", spec: external({ apiToken: "first-secret" }) });

    await services.update(call(), { ...change, name: "web", spec: { apiToken: "second-secret" } });
    expect(() => authenticator.authenticate("first-secret")).toThrow(
      expect.objectContaining({ reason: "TOKEN_REVOKED" }),
    );
    await services.apply(call(), { services: [{ name: "web", spec: external() }], setName: "", prune: false });
    expect(authenticator.authenticate("second-secret").name).toBe("web");

    const { service } = await services.update(call(), { ...change, name: "web", paths: ["spec.api_token"], spec: {} });
    expect(service.spec.apiTokenSet).toBe(false);
    expect(() => authenticator.authenticate("second-secret")).toThrow(
      expect.objectContaining({ reason: "TOKEN_REVOKED" }),
    );
  });

  test("may come back, and may be another service's once it was let go of", async () => {
    const { services, authenticator } = await Registry.start();
    await services.create(call(), { name: "one", spec: external({ apiToken: "first-secret" }) });
    await services.update(call(), { ...change, name: "one", spec: { apiToken: "second-secret" } });
    await services.update(call(), { ...change, name: "one", spec: { apiToken: "first-secret" } });
    expect(authenticator.authenticate("first-secret").name).toBe("one");

    await services.create(call(), { name: "two", spec: external({ apiToken: "second-secret" }) });

    expect(authenticator.authenticate("second-secret").name).toBe("two");
  });

  test("is what every instance of its service gets", async () => {
    const { services, tokens } = await Registry.start();
    const { service } = await services.create(call(), { name: "web", spec: managed({ apiToken: "super-secret" }) });

    expect(await tokens.forInstance(service, randomUUID())).toEqual({ secret: "super-secret", token: undefined });
  });
});

describe("the token generated for a managed service", () => {
  const begin = async (registry: Registry, name: string): Promise<string> => {
    const { service } = await registry.services.get(name);
    const instanceId = randomUUID();
    const { secret, token } = await registry.tokens.forInstance(service, instanceId);
    await registry.store.facts.record({
      serviceUid: service.uid,
      ...(token === undefined ? {} : { instanceToken: token }),
      events: [{ body: { type: "instance_starting", instanceId }, message: "starting" }],
    });
    return secret;
  };

  test("ends when the next instance gets its own", async () => {
    const registry = await Registry.start();
    await registry.services.create(call(), { name: "web", spec: managed() });

    const first = await begin(registry, "web");
    await eventually(() => registry.authenticator.authenticate(first).name === "web");
    const second = await begin(registry, "web");

    await eventually(() => registry.authenticator.authenticate(second).name === "web");
    expect(() => registry.authenticator.authenticate(first)).toThrow(
      expect.objectContaining({ reason: "TOKEN_REVOKED" }),
    );
  });

  test("ends when its service is deleted", async () => {
    const registry = await Registry.start();
    await registry.services.create(call(), { name: "web", spec: managed() });
    const secret = await begin(registry, "web");
    await eventually(() => registry.authenticator.authenticate(secret).name === "web");

    await registry.services.delete(call(), { ...remove, name: "web" });

    expect(() => registry.authenticator.authenticate(secret)).toThrow(
      expect.objectContaining({ code: "unauthenticated" }),
    );
  });
});
