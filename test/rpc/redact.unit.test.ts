import { create, type DescMessage } from "@bufbuild/protobuf";
import { nestedTypes, reflect } from "@bufbuild/protobuf/reflect";
import { expect, test } from "vitest";
import {
  ApplyRequestSchema,
  CreateRequestSchema,
  file_steward_v1_service_registry,
  IssueTokenResponseSchema,
} from "../../gen/steward/v1/service_registry_pb.ts";
import { file_steward_v1_supervisor } from "../../gen/steward/v1/supervisor_pb.ts";
import { redact, redacted } from "../../src/rpc/redact.ts";

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

test("whatever string field of whatever message is marked, its value is not shown", () => {
  const files = [file_steward_v1_service_registry, file_steward_v1_supervisor];
  const messages = files.flatMap((file) => [...nestedTypes(file)]).filter((type) => type.kind === "message");

  for (const schema of messages) {
    const shown = JSON.stringify(redact(schema, markedOnly(schema)));
    expect(shown).not.toContain(secret);
  }
});

function markedOnly(schema: DescMessage) {
  const message = reflect(schema);
  for (const field of schema.fields) {
    const isMarked = field.proto.options?.debugRedact === true;
    if (isMarked && field.fieldKind === "scalar") message.set(field, secret);
  }
  return message.message;
}
