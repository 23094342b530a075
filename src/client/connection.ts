import { connect, type Socket } from "node:net";
import type { Interceptor, Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

export interface ConnectionOptions {
  /** `HOST:PORT`, `http://HOST:PORT`, `https://HOST:PORT` or, for a server on this host, the path of its socket: `unix:/path`. */
  readonly address: string;
  /** A token, or what tells the token of each call: one that is read from a file may be rotated meanwhile. Absent: none is sent. */
  readonly token?: string | (() => string | Promise<string>) | undefined;
  /** `connect` (the default) for the listener that speaks everything, `grpc` for either. */
  readonly protocol?: "connect" | "grpc";
  /** For an https address. Absent: the certificate authorities of the system. */
  readonly tls?: ClientTls;
}

/** PEM. */
export interface ClientTls {
  /** Who may have signed the server's certificate. */
  readonly ca?: string | Buffer;
  /** Our own certificate and key, for a server that asks for them. */
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  /** The name to expect in the server's certificate, when it is not the address's. */
  readonly servername?: string;
}

export interface OpenConnection {
  readonly transport: Transport;
  readonly close: () => void;
}

/** Opens nothing yet. Throws TypeError for an address that is none. */
export function openConnection({ address, token, protocol = "connect", tls = {} }: ConnectionOptions): OpenConnection {
  const { baseUrl, ...target } = targetOf(address);
  // A watch that waits for hours finds out by its pings that the server's host is gone.
  const sessionManager = new Http2SessionManager(baseUrl, { pingIntervalMs: 30_000 }, { ...tls, ...target });
  const interceptors = token === undefined ? [] : [sendToken(token)];
  const options = { baseUrl, sessionManager, interceptors };
  return {
    transport:
      protocol === "grpc" ? createGrpcTransport(options) : createConnectTransport({ ...options, httpVersion: "2" }),
    close: () => sessionManager.abort(),
  };
}

function sendToken(token: NonNullable<ConnectionOptions["token"]>): Interceptor {
  const tell = typeof token === "string" ? () => token : token;
  return (next) => async (request) => {
    request.header.set("authorization", `Bearer ${await tell()}`);
    return next(request);
  };
}

function targetOf(address: string): { readonly baseUrl: string; readonly createConnection?: () => Socket } {
  // As gRPC writes it, with two slashes before the path or without.
  const path = /^unix:(?:\/\/)?(\/.+)$/.exec(address)?.[1];
  if (path !== undefined) return { baseUrl: "http://localhost", createConnection: () => connect(path) };
  const url = address.includes("://") ? address : `http://${address}`;
  if (!/^https?:\/\//.test(url) || address.startsWith("unix:") || !URL.canParse(url))
    throw new TypeError(`the address is HOST:PORT, a URL or unix:/PATH, not ${JSON.stringify(address)}`);
  return { baseUrl: url.replace(/\/+$/, "") };
}
