/** A grpc-js server and nothing else: it decodes the request of Get and encodes the response that it was given. */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { Server, ServerCredentials, type sendUnaryData } from "@grpc/grpc-js";
import {
  type GetRequest,
  GetRequestSchema,
  type GetResponse,
  GetResponseSchema,
} from "../../gen/steward/v1/service_registry_pb.ts";

const response = fromBinary(GetResponseSchema, Buffer.from(process.argv[2] ?? "", "base64"));
const server = new Server();
server.register(
  "/steward.v1.ServiceRegistry/Get",
  (_: unknown, respond: sendUnaryData<GetResponse>) => respond(null, response),
  (message: GetResponse) => Buffer.from(toBinary(GetResponseSchema, message)),
  (bytes: Buffer): GetRequest => fromBinary(GetRequestSchema, bytes),
  "unary",
);
server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error;
  process.send?.([port]);
});
