import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { Client, type ClientReadableStream, credentials, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../../gen/google/rpc/status_pb.ts";
import {
  ListRequestSchema,
  ListResponseSchema,
  WatchServicesRequestSchema,
  type WatchServicesResponse,
  WatchServicesResponseSchema,
} from "../../gen/steward/v1/service_registry_pb.ts";
import { eventually } from "../support/eventually.ts";
import { goodSecret, type Rig, startRig } from "./rig.ts";

let rig: Rig;

beforeAll(async () => {
  rig = await startRig({
    async *watchServices(_request, { signal }) {
      for (let revision = 0n; !signal.aborted; revision += 1n)
        yield { cursor: { revision, storeUid: "x".repeat(1000) } };
    },
  });
});

afterAll(() => rig[Symbol.asyncDispose]());

describe.each(["grpcPort", "connectPort"] as const)("a client of grpc-js on %s", (port) => {
  test("calls", async () => {
    await using client = dial(rig[port]);

    expect((await client.list()).revision).toBe(7n);
  });

  test("reads the details of an error", async () => {
    await using client = dial(rig[port], "sts_wrong");

    const error = await client.list().then(
      () => undefined,
      (reason: ServiceError) => reason,
    );

    expect(error?.code).toBe(status.UNAUTHENTICATED);
    expect(error?.details).toBe("no such token");
    const [bytes] = error?.metadata.get("grpc-status-details-bin") ?? [];
    const { details } = fromBinary(StatusSchema, bytes as Buffer);
    expect(details[0] && anyUnpack(details[0], ErrorInfoSchema)?.reason).toBe("TOKEN_INVALID");
  });

  test("reads a stream slowly, then cancels it", async () => {
    await using client = dial(rig[port]);
    const calls = rig.calls.length;
    const stream = client.watch();
    let expected = 0n;
    for await (const { cursor } of stream as AsyncIterable<WatchServicesResponse>) {
      expect(cursor?.revision).toBe(expected);
      expected += 1n;
      if (expected === 2000n) break;
    }
    stream.cancel();

    await eventually(() => rig.calls[calls]?.signal.aborted);
  });

  test("calls a thousand times at once on one connection", async () => {
    await using client = dial(rig[port]);

    const answers = await Promise.all(Array.from({ length: 1000 }, () => client.list()));

    expect(answers.every(({ revision }) => revision === 7n)).toBe(true);
  });
});

function dial(port: number, secret = goodSecret) {
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${secret}`);
  return {
    list: () =>
      new Promise<ReturnType<typeof readList>>((resolve, reject) => {
        const request = create(ListRequestSchema);
        client.makeUnaryRequest(
          "/steward.v1.ServiceRegistry/List",
          (message: typeof request) => Buffer.from(toBinary(ListRequestSchema, message)),
          readList,
          request,
          metadata,
          (error, response) => (response === undefined ? reject(error) : resolve(response)),
        );
      }),
    watch: (): ClientReadableStream<WatchServicesResponse> =>
      client
        .makeServerStreamRequest(
          "/steward.v1.ServiceRegistry/WatchServices",
          () => Buffer.from(toBinary(WatchServicesRequestSchema, create(WatchServicesRequestSchema))),
          (bytes: Buffer) => fromBinary(WatchServicesResponseSchema, bytes),
          {},
          metadata,
        )
        .on("error", () => undefined),
    [Symbol.asyncDispose]: async () => client.close(),
  };
}

function readList(bytes: Buffer) {
  return fromBinary(ListResponseSchema, bytes);
}
