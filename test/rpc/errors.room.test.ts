import { create, toJson } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ViolationsSchema } from "../../gen/buf/validate/validate_pb.ts";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  PreconditionFailureSchema,
  RequestInfoSchema,
  ResourceInfoSchema,
  RetryInfoSchema,
} from "../../gen/google/rpc/error_details_pb.ts";
import { AppError, invalid, serviceNotFound } from "../../src/domain/errors.ts";
import { type Rig, registryClient, startRig, type TransportName, transportNames } from "./rig.ts";

const failures: Record<string, () => Error> = {
  absent: () => serviceNotFound("absent"),
  wrong: () => invalid({ field: "service.spec.url", description: "no port" }, { field: "x", description: "y" }),
  deleting: () =>
    new AppError("failed_precondition", "SERVICE_DELETING", "it goes", {
      resource: { type: "service", name: "deleting" },
    }),
  away: () => new AppError("unavailable", "STORE_UNAVAILABLE", "the database is away", { retryAfterMs: 1500 }),
  taken: () =>
    new AppError("already_exists", "SERVICE_EXISTS", "50% of \u00e9 \ud800 taken", { metadata: { uid: "1" } }),
  bug: () => new TypeError("password=hunter2"),
};

let rig: Rig;

beforeAll(async () => {
  rig = await startRig({
    get: async ({ name }) => {
      throw failures[name]?.() ?? new Error("unexpected");
    },
  });
});

afterAll(() => rig[Symbol.asyncDispose]());

describe.each(transportNames)("over %s", (transport) => {
  test.each(Object.keys(failures))("the failure %s has the code and the details of the table", async (name) => {
    const error = await failureOf(transport, name);

    expect(summaryOf(error)).toEqual(await referenceOf(name));
  });

  test("a broken rule names the field, as BadRequest and as Violations", async () => {
    const error = await failureOf(transport, "");

    expect(error.code).toBe(Code.InvalidArgument);
    expect(error.findDetails(ErrorInfoSchema)[0]?.reason).toBe("VALIDATION_FAILED");
    expect(error.findDetails(BadRequestSchema)[0]?.fieldViolations[0]?.field).toBe("name");
    expect(error.findDetails(ViolationsSchema)[0]?.violations[0]?.ruleId).toBe("string.min_len");
  });

  test("a bug is masked outside and logged whole inside, under the request id", async () => {
    const before = rig.log.length;

    const error = await failureOf(transport, "bug");

    expect(error.code).toBe(Code.Internal);
    expect(error.rawMessage).not.toContain("hunter2");
    const requestId = error.findDetails(RequestInfoSchema)[0]?.requestId;
    const logged = rig.log.slice(before).find(({ requestId: id, level }) => id === requestId && level === 50);
    expect(JSON.stringify(logged)).toContain("hunter2");
    expect(error.metadata.get("x-request-id")).toBe(requestId);
  });

  test("many broken fields leave as a few, with their number", async () => {
    failures["many"] = () => {
      const one = { field: "services[0].spec.url", description: "x".repeat(1000) };
      return invalid(one, ...Array.from({ length: 999 }, () => one));
    };

    const error = await failureOf(transport, "many");

    expect(error.findDetails(BadRequestSchema)[0]?.fieldViolations.length).toBe(16);
    expect(error.findDetails(ErrorInfoSchema)[0]?.metadata["violations"]).toBe("1000");
  });
});

test("the table: reasons, resources, preconditions and delays", async () => {
  const absent = await failureOf("gRPC", "absent");
  expect(absent.code).toBe(Code.NotFound);
  expect(absent.findDetails(ErrorInfoSchema)[0]).toMatchObject({ domain: "steward", reason: "SERVICE_NOT_FOUND" });
  expect(absent.findDetails(ResourceInfoSchema)[0]).toMatchObject({ resourceType: "service", resourceName: "absent" });

  const deleting = await failureOf("gRPC", "deleting");
  expect(deleting.findDetails(PreconditionFailureSchema)[0]?.violations[0]).toMatchObject({
    type: "SERVICE_DELETING",
    subject: "service/deleting",
  });

  const away = await failureOf("gRPC", "away");
  expect(away.findDetails(RetryInfoSchema)[0]?.retryDelay).toMatchObject({ seconds: 1n, nanos: 500_000_000 });
});

async function failureOf(transport: TransportName, name: string): Promise<ConnectError> {
  const outcome = await registryClient(rig, transport)
    .get({ name })
    .catch((error: unknown) => ConnectError.from(error));
  if (outcome instanceof ConnectError) return outcome;
  throw new Error("the call succeeded");
}

const known = [ErrorInfoSchema, BadRequestSchema, PreconditionFailureSchema, ResourceInfoSchema, RetryInfoSchema];

function summaryOf(error: ConnectError) {
  const details = known.flatMap((schema) =>
    error.findDetails(schema).map((found) => [schema.typeName, toJson(schema, create(schema, found))]),
  );
  return { code: Code[error.code], message: error.rawMessage, count: error.details.length, details };
}

async function referenceOf(name: string) {
  return summaryOf(await failureOf("Connect JSON", name));
}
