import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { ProbeSchema } from "../../gen/steward/v1/service_pb.ts";
import { probeWords } from "../../src/cli/probe-words.ts";

type Kind = MessageInitShape<typeof ProbeSchema>["kind"];

test.each<[string, Kind]>([
  ["HTTP at its prefix", { case: "http", value: {} }],
  ["HTTP /health on port 8080", { case: "http", value: { path: "/health", port: 8_080 } }],
  ["TCP", { case: "tcp", value: {} }],
  ["gRPC health", { case: "grpc", value: {} }],
  ["gRPC health of mail on port 50051", { case: "grpc", value: { service: "mail", port: 50_051 } }],
  ["command sh -c 'exit 1'", { case: "exec", value: { command: ["sh", "-c", "exit 1"] } }],
  ["a line on descriptor 7", { case: "notify", value: { fd: 7 } }],
])("a probe is told in one line: %s", (words, kind) => {
  const probe = create(ProbeSchema, {
    ...(kind === undefined ? {} : { kind }),
    period: { seconds: 10n },
    timeout: { nanos: 500_000_000 },
    failureThreshold: 3,
    successThreshold: 1,
  });

  expect(probeWords(probe)).toBe(`${words}, every 10s, timeout 0.5s, 3 failures`);
  expect(probeWords({ ...probe, failureThreshold: 1, successThreshold: 2 })).toMatch(/, 1 failure, 2 successes$/);
});

test("none is told by nothing", () => {
  expect(probeWords(undefined)).toBe("");
});
