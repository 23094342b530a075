/** connect-node and nothing else, on a port for HTTP/1.1 and one for HTTP/2: Get answers with the response that it was given. */
import { createServer as createHttp1 } from "node:http";
import { createServer as createHttp2 } from "node:http2";
import type { AddressInfo, Server } from "node:net";
import { fromBinary } from "@bufbuild/protobuf";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { GetResponseSchema, ServiceRegistry } from "../../gen/steward/v1/service_registry_pb.ts";

const response = fromBinary(GetResponseSchema, Buffer.from(process.argv[2] ?? "", "base64"));
const handler = connectNodeAdapter({
  routes: ({ rpc }) => {
    rpc(ServiceRegistry.method.get, () => response);
  },
});
const servers: Server[] = [createHttp1(handler), createHttp2(handler)];
const ports = servers.map(async (server) => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
});
process.send?.(await Promise.all(ports));
