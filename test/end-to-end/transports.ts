import { type Client, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { ServiceRegistry } from "../../gen/steward/v1/service_registry_pb.ts";
import { Supervisor } from "../../gen/steward/v1/supervisor_pb.ts";
import { GrpcJsTransport } from "./grpc-js-transport.ts";
import type { TestAddresses } from "./harness.ts";

/** The ways into Steward; what holds of one holds of all. */
export const transports = [
  "Connect with JSON over HTTP/1.1",
  "Connect with protobuf over HTTP/2",
  "gRPC-Web",
  "gRPC on the Connect listener",
  "gRPC on the gRPC listener",
] as const;

export type TransportName = (typeof transports)[number];

export interface Clients {
  readonly registry: Client<typeof ServiceRegistry>;
  readonly supervisor: Client<typeof Supervisor>;
}

/** Clients with a token, or without any. */
export function clientsOf(name: TransportName, addresses: TestAddresses, token: string | undefined): Clients {
  const transport = transportOf(name, addresses, token === undefined ? undefined : `Bearer ${token}`);
  return { registry: createClient(ServiceRegistry, transport), supervisor: createClient(Supervisor, transport) };
}

function transportOf(name: TransportName, addresses: TestAddresses, authorization: string | undefined): Transport {
  const baseUrl = addresses.connect;
  const interceptors = authorization === undefined ? [] : [sendHeader(authorization)];
  switch (name) {
    case "Connect with JSON over HTTP/1.1":
      return createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: false, interceptors });
    case "Connect with protobuf over HTTP/2":
      return createConnectTransport({ baseUrl, httpVersion: "2", useBinaryFormat: true, interceptors });
    case "gRPC-Web":
      return createGrpcWebTransport({ baseUrl, httpVersion: "1.1", interceptors });
    case "gRPC on the Connect listener":
      return createGrpcTransport({ baseUrl, interceptors });
    case "gRPC on the gRPC listener":
      return new GrpcJsTransport(addresses.grpc, authorization === undefined ? {} : { authorization });
  }
}

function sendHeader(authorization: string): Interceptor {
  return (next) => (request) => {
    request.header.set("authorization", authorization);
    return next(request);
  };
}
