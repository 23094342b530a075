import { create, toBinary } from "@bufbuild/protobuf";
import { GetRequestSchema } from "../gen/steward/v1/service_registry_pb.ts";
import { type ConnectedCaller, framed, http2Caller } from "./load.ts";
import type { Scene } from "./scene.ts";

/** Asks for one service over gRPC. */
export function getCaller({ steward }: Scene, name: string): ConnectedCaller {
  const body = framed(toBinary(GetRequestSchema, create(GetRequestSchema, { name })));
  const headers = {
    ...{ "content-type": "application/grpc+proto", te: "trailers" },
    authorization: `Bearer ${steward.adminToken}`,
  };
  return http2Caller({
    ...{ origin: steward.addresses.grpc, path: "/steward.v1.ServiceRegistry/Get" },
    ...{ headers, body: () => body },
  });
}
