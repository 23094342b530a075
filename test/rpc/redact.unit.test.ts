import { create } from "@bufbuild/protobuf";
import { nestedTypes } from "@bufbuild/protobuf/reflect";
import { expect, test } from "vitest";
import {
  ApplyRequestSchema,
  CreateRequestSchema,
  file_steward_v1_service_registry,
  IssueTokenResponseSchema,
} from "../../gen/steward/v1/service_registry_pb.ts";
import { file_steward_v1_supervisor } from "../../gen/steward/v1/supervisor_pb.ts";
import { redact, redacted } from "../../src/rpc/redact.ts";
import { nameOf, plant, secretPaths } from "../support/secret-fields.ts";

const secret = "sts_do_not_show";

test("a secret is replaced at any depth, the rest stays", () => {
  const spec = {
    apiToken: secret,
    url: "http://127.0.0.1:0",
    kind: { case: "managed", value: { command: ["a"] } },
  } as const;

  const one = redact(
    CreateRequestSchema,
    create(CreateRequestSchema, {
      serviceId: "a",
      service: { spec: { ...spec, kind: { case: "managed", value: { command: ["a"] } } } },
    }),
  );
  const many = redact(ApplyRequestSchema, create(ApplyRequestSchema, { services: [{ spec: { apiToken: secret } }] }));

  expect(one).toEqual({
    service_id: "a",
    service: { spec: { managed: { command: ["a"] }, api_token: redacted, url: "http://127.0.0.1:0" } },
  });
  expect(JSON.stringify(many)).not.toContain(secret);
  expect(redact(IssueTokenResponseSchema, create(IssueTokenResponseSchema, { secret }))).toEqual({ secret: redacted });
});

test("whatever field of whatever message is marked, at whatever depth, its value is not shown", () => {
  const files = [file_steward_v1_service_registry, file_steward_v1_supervisor];
  const all = new Set(files.flatMap((file) => [file, ...file.dependencies]));
  const messages = [...all].flatMap((file) => [...nestedTypes(file)]).filter((type) => type.kind === "message");
  const walked: string[] = [];

  for (const schema of messages) {
    for (const path of secretPaths(schema)) {
      const shown = JSON.stringify(redact(schema, plant(schema, create(schema), path, secret)));
      expect(shown).toContain(redacted);
      expect(shown).not.toContain(secret);
      walked.push(nameOf(schema, path));
    }
  }

  expect(walked).toEqual(
    expect.arrayContaining([
      "steward.v1.ServiceSpec.api_token",
      "steward.v1.ManagedSpec.environment",
      "steward.v1.ApplyRequest.services.spec.managed.environment",
      "steward.v1.RotateTokenResponse.secret",
    ]),
  );
});
