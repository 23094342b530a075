import { toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { GetResponseSchema } from "../../gen/steward/v1/service_registry_pb.ts";
import type { Principal } from "../../src/domain/principal.ts";
import { GetAnswers } from "../../src/rpc/get-answers.ts";
import { binaryCodec, framed } from "../../src/rpc/handler.ts";
import { aService } from "./arbitrary.ts";

const admin = principal("*");
const reader = principal("read:services");
const service = aService({ name: "web" });

test("an answer is encoded once for all who may see the same, while nothing changes", () => {
  const answers = new GetAnswers();

  const first = answers.of(admin, service, 7n);
  const again = answers.of(principal("*"), service, 7n);

  expect(again).toBe(first);
  expect(first.frame(binaryCodec)).toEqual(framed(toBinary(GetResponseSchema, first.message)));
  expect(first.message).toMatchObject({ revision: 7n, service: { name: "web" } });
});

test("another revision is another answer, and so is another service", () => {
  const answers = new GetAnswers();
  const first = answers.of(admin, service, 7n);

  expect(answers.of(admin, service, 8n).message.revision).toBe(8n);
  expect(answers.of(admin, { ...service, generation: 9 }, 8n).message.service?.generation).toBe(9n);
  expect(first.message.revision).toBe(7n);
});

test("who may not see the environment is not given the answer of one who may, nor the other way round", () => {
  const answers = new GetAnswers();
  const environments = [admin, reader, admin, reader].map((asking) => {
    const { spec } = answers.of(asking, service, 7n).message.service ?? {};
    return spec?.kind.case === "managed" ? spec.kind.value.environment : undefined;
  });

  const all = { COLOUR: "green" };
  expect(environments).toEqual([all, {}, all, {}]);
});

function principal(...scopes: string[]): Principal {
  return { kind: "operator", name: "o", serviceUid: undefined, tokenId: "t", tokenExpireTime: undefined, scopes };
}
