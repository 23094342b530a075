import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import type { ClientCertificate } from "../domain/principal.ts";

/** Who is at the other end of a connection. */
export interface Peer {
  /** `HOST:PORT`, or `local` on a Unix socket. */
  readonly address: string;
  /** Undefined without TLS, and unless the client showed a certificate that our client CA signed. */
  readonly certificate: ClientCertificate | undefined;
}

const peers = new WeakMap<Socket, Peer>();

/** Notes who is there while the connection is young: later its address is no longer known when it breaks. */
export function peerOf(socket: Socket | undefined): Peer {
  if (socket === undefined) return nobody;
  const known = peers.get(socket);
  if (known !== undefined) return known;
  const { remoteAddress, remotePort } = socket;
  const address = remoteAddress === undefined ? "local" : `${remoteAddress}:${remotePort}`;
  const peer = { address, certificate: certificateOf(socket) };
  peers.set(socket, peer);
  return peer;
}

const nobody: Peer = { address: "local", certificate: undefined };

// The socket of an HTTP/2 session is a proxy of Node's, through which it looks like the real one.
function certificateOf(socket: Socket): ClientCertificate | undefined {
  if (!(socket instanceof TLSSocket) || !socket.authorized) return undefined;
  const shown = socket.getPeerX509Certificate();
  if (shown === undefined) return undefined;
  return { names: namesIn(shown.subjectAltName, shown.subject), expireTime: new Date(shown.validTo) };
}

/** The names that count, of the texts that Node makes of a certificate. */
export function namesIn(alternatives: string | undefined, subject: string | undefined): readonly string[] {
  const named = [...alternativesIn(alternatives ?? "")];
  if (named.length > 0) return named;
  const commonNames = (subject ?? "").split("\n").flatMap((line) => (line.startsWith("CN=") ? [line.slice(3)] : []));
  // With several, none is the name.
  return commonNames.length === 1 ? commonNames : [];
}

// `DNS:a.example, URI:"with, special"`: what could be taken for a separator is quoted as JSON.
function* alternativesIn(text: string): Generator<string> {
  for (const [, kind, value = ""] of text.matchAll(/(\w[\w ]*):("(?:[^"\\]|\\.)*"|[^,]*)(?:, |$)/gy)) {
    if (kind === "URI" || kind === "DNS") yield value.startsWith('"') ? String(JSON.parse(value)) : value;
  }
}
