import { Code } from "@connectrpc/connect";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createStewardClient, ErrorReason, type StewardClient, StewardError } from "../../src/client.ts";
import { AppError, invalid } from "../../src/domain/errors.ts";
import { goodSecret, type Rig, startRig } from "../rpc/rig.ts";

describe.each(["connect", "grpc"] as const)("a client that speaks %s", (protocol) => {
  let failure: unknown;
  let rig: Rig;
  let client: StewardClient;

  beforeEach(async () => {
    rig = await startRig({
      list: async () => {
        throw failure;
      },
      watchServices: () => endingWith(() => failure),
    });
    client = clientOf(goodSecret);
  });
  afterEach(async () => {
    client.close();
    await rig[Symbol.asyncDispose]();
  });

  const port = () => (protocol === "grpc" ? rig.grpcPort : rig.connectPort);
  const clientOf = (token: string | (() => Promise<string>)) =>
    createStewardClient({ address: `127.0.0.1:${port()}`, token, protocol });
  const list = () => errorOf(client.registry.list({}));

  test("tells code, reason, metadata and the id of the call", async () => {
    failure = new AppError("aborted", "ETAG_MISMATCH", "somebody was faster", { metadata: { etag: "7" } });

    const error = await list();

    expect(error).toMatchObject({
      ...{ code: Code.Aborted, reason: ErrorReason.ETAG_MISMATCH, message: "somebody was faster" },
      ...{ metadata: { etag: "7" }, violations: [], retryDelayMs: undefined },
    });
    expect(error.requestId).not.toBe("");
  });

  test("tells every wrong field", async () => {
    failure = invalid({ field: "a.b", description: "is wrong" }, { field: "c", description: "is missing" });

    const { reason, violations } = await list();

    expect(reason).toBe(ErrorReason.VALIDATION_FAILED);
    expect(violations).toEqual([
      { field: "a.b", description: "is wrong" },
      { field: "c", description: "is missing" },
    ]);
  });

  test("tells how long to wait", async () => {
    failure = new AppError("unavailable", "STORE_UNAVAILABLE", "no database", { retryAfterMs: 1_500 });

    expect((await list()).retryDelayMs).toBe(1_500);
  });

  test("fails streams in the same way", async () => {
    failure = new AppError("permission_denied", "SCOPE_MISSING", "no", { metadata: { scope: "list:services" } });

    const error = await errorOf(Array.fromAsync(client.registry.watchServices({})));

    expect(error).toMatchObject({ reason: ErrorReason.SCOPE_MISSING, metadata: { scope: "list:services" } });
  });

  test("says that a server is not there, with no reason of Steward", async () => {
    await rig[Symbol.asyncDispose]();

    expect(await list()).toMatchObject({ code: Code.Unavailable, reason: ErrorReason.UNSPECIFIED, requestId: "" });
  });

  test("asks for the token of each call", async () => {
    const tokens = ["sts_not_this_one_at_all", goodSecret];
    using asking = clientOf(async () => tokens.shift() ?? "");
    failure = new AppError("not_found", "SERVICE_NOT_FOUND", "no such service");

    const reasons = [await errorOf(asking.registry.list({})), await errorOf(asking.registry.list({}))];

    expect(reasons.map(({ reason }) => reason)).toEqual([ErrorReason.TOKEN_INVALID, ErrorReason.SERVICE_NOT_FOUND]);
  });

  test("answers health without a token", async () => {
    using nobody = createStewardClient({ address: `http://127.0.0.1:${port()}/`, protocol });

    expect(await nobody.health.check({})).toMatchObject({ status: 1 });
  });
});

test("an address that is none is refused at once", () => {
  expect(() => createStewardClient({ address: "http://a b" })).toThrow(TypeError);
});

async function* endingWith(failure: () => unknown): AsyncGenerator<never, void> {
  yield* [];
  throw failure();
}

async function errorOf(call: Promise<unknown>): Promise<StewardError> {
  const error = await call.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof StewardError)) throw new Error("the call did not fail with a StewardError", { cause: error });
  return error;
}
