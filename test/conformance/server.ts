/**
 * What the runner of the Connect conformance suite starts, once for each kind of server that it wants: our listeners with the suite's service.
 * `connect` serves with the listener that speaks everything, `grpc` with the one for gRPC alone. Reads one request from stdin, writes one
 * response to stdout, runs until SIGTERM.
 */
import { once } from "node:events";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { pino } from "pino";
import { AppError } from "../../src/domain/errors.ts";
import { RpcServer } from "../../src/rpc/rpc-server.ts";
import { conformanceService } from "./conformance-service.ts";
import {
  type ServerCompatRequest,
  ServerCompatRequestSchema,
  ServerCompatResponseSchema,
} from "./gen/connectrpc/conformance/v1/server_compat_pb.ts";

const listener = process.argv[2] === "grpc" ? "grpc" : "connect";
const wish = fromBinary(ServerCompatRequestSchema, await readMessage());
const server = new RpcServer({
  services: [conformanceService],
  authenticate: () => {
    throw new AppError("unauthenticated", "TOKEN_INVALID", "the suite sends no token");
  },
  reflection: "off",
  log: pino({ level: "warn" }, pino.destination(2)),
  [listener]: { port: 0 },
  ...tlsOf(wish),
  ...(wish.messageReceiveLimit === 0 ? {} : { limits: { messageBytes: wish.messageReceiveLimit } }),
});
await server.start();
server.open();
const { host, port } = (listener === "grpc" ? server.grpcAddress : server.connectAddress) ?? { host: "", port: 0 };
const response = create(ServerCompatResponseSchema, {
  host,
  port,
  pemCert: wish.serverCreds?.cert ?? new Uint8Array(),
});
const body = toBinary(ServerCompatResponseSchema, response);
const size = Buffer.alloc(4);
size.writeUInt32BE(body.length);
process.stdout.write(Buffer.concat([size, body]));
await once(process, "SIGTERM");
await server.stop();

function tlsOf({
  serverCreds,
  clientTlsCert,
}: ServerCompatRequest): Partial<ConstructorParameters<typeof RpcServer>[0]> {
  if (serverCreds === undefined) return {};
  const { cert, key } = serverCreds;
  const clientCa = clientTlsCert.length === 0 ? {} : { clientCa: Buffer.from(clientTlsCert) };
  return { tls: { cert: Buffer.from(cert), key: Buffer.from(key), ...clientCa } };
}

/** The runner leaves stdin open: a message ends where its size says. */
async function readMessage(): Promise<Uint8Array> {
  let seen = Buffer.alloc(0);
  for await (const chunk of process.stdin) {
    seen = Buffer.concat([seen, chunk as Buffer]);
    if (seen.length >= 4 && seen.length >= 4 + seen.readUInt32BE()) break;
  }
  return seen.subarray(4);
}
