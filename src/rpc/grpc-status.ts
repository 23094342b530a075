import { create, toBinary } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { StatusSchema } from "../../gen/google/rpc/status_pb.ts";
import type { RpcError } from "./errors.ts";

/** The bytes of `grpc-status-details-bin`: the whole error as `google.rpc.Status`. */
export function statusDetails(error: RpcError): Buffer {
  const details = error.details.flatMap((detail) =>
    "desc" in detail ? [anyPack(detail.desc, create(detail.desc, detail.value))] : [],
  );
  const status = create(StatusSchema, { code: error.code, message: error.rawMessage, details });
  return Buffer.from(toBinary(StatusSchema, status));
}

/** The headers of a gRPC answer that consists of a failure alone. The HTTP status is 200: the call was answered. */
export function trailersOnly(error: RpcError, callId: string, contentType: string): Record<string, string> {
  return {
    "content-type": contentType,
    "x-request-id": callId,
    "grpc-status": String(error.code),
    "grpc-message": encodeURIComponent(error.rawMessage),
    "grpc-status-details-bin": statusDetails(error).toString("base64").replace(/=+$/, ""),
  };
}
