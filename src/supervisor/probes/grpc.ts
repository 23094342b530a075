import { type ClientHttp2Session, type ClientHttp2Stream, connect, type IncomingHttpHeaders } from "node:http2";
import { type Address, hostPort, originOf } from "./address.ts";
import { type Answer, aborted, no, type Question, within, yes } from "./question.ts";

/**
 * The gRPC health protocol: SERVING is a success. One call on a connection of its own, so that nothing is kept or tried again behind our back; the two
 * messages have one field each. Cleartext HTTP/2, or TLS without verification. Source: grpc.health.v1, health.proto.
 */
export function grpcQuestion(address: Address, service: string): Question {
  return {
    subject: `gRPC health of ${service === "" ? "" : `${service} at `}${hostPort(address)}`,
    ask: (signal, timeoutMs) =>
      within(signal, timeoutMs, async (limit) => {
        const session = connect(originOf(address), { rejectUnauthorized: false });
        session.on("error", () => undefined);
        try {
          return judge(await Promise.race([check(session, service), aborted(limit)]), service);
        } finally {
          session.destroy();
        }
      }),
  };
}

interface Reply {
  readonly httpStatus: number;
  /** As text; undefined: the call ended without one. */
  readonly status: string | undefined;
  readonly body: Buffer;
}

const largestReply = 1_024;

function check(session: ClientHttp2Session, service: string): Promise<Reply> {
  return new Promise((resolve, reject) => {
    session.once("error", reject);
    session.once("close", () => reject(new Error("it closed the connection")));
    const stream = session.request({
      ":method": "POST",
      ":path": "/grpc.health.v1.Health/Check",
      "content-type": "application/grpc",
      te: "trailers",
      "user-agent": "steward-probe",
    });
    stream.once("error", reject);
    collect(stream, resolve, reject);
    stream.end(requestFor(service));
  });
}

function collect(stream: ClientHttp2Stream, resolve: (reply: Reply) => void, reject: (error: Error) => void): void {
  let headers: IncomingHttpHeaders & { ":status"?: number | undefined } = {};
  let trailers: IncomingHttpHeaders = {};
  let body = Buffer.alloc(0);
  stream.once("response", (received) => (headers = received));
  stream.once("trailers", (received) => (trailers = received));
  stream.on("data", (part: Buffer) => {
    body = Buffer.concat([body, part]);
    if (body.length > largestReply) reject(new Error("it answers more than a health check has to say"));
  });
  stream.once("end", () => {
    const { ":status": httpStatus } = headers;
    if (httpStatus === undefined) return reject(new Error("it closed the connection"));
    const status = trailers["grpc-status"] ?? headers["grpc-status"];
    resolve({ httpStatus, status: status === undefined ? undefined : String(status), body });
  });
}

const servingStatuses = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

function judge({ httpStatus, status, body }: Reply, service: string): Answer {
  if (httpStatus !== 200) return no(`it answers HTTP ${httpStatus}`);
  switch (status) {
    case undefined:
      return no("it is no gRPC server");
    case "0":
      break;
    case "5":
      return no(`it does not know the service ${JSON.stringify(service)}`);
    case "12":
      return no("it does not offer the health protocol");
    default:
      return no(`it answers gRPC status ${status}`);
  }
  const serving = readStatus(body);
  const word = servingStatuses[serving] ?? String(serving);
  return word === "SERVING" ? yes(`it says ${word}`) : no(`it says ${word}`);
}

const framePrefix = 5;
const firstFieldText = 0x0a;
const firstFieldNumber = 0x08;

/** HealthCheckRequest: field 1 is the name of the service, at most 255 characters. */
function requestFor(service: string): Buffer {
  const name = Buffer.from(service);
  const message = name.length === 0 ? name : Buffer.concat([field(name.length), name]);
  const prefix = Buffer.alloc(framePrefix);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

/** The tag and the length as a varint. */
function field(length: number): Buffer {
  return Buffer.from(length < 128 ? [firstFieldText, length] : [firstFieldText, (length & 127) | 128, length >> 7]);
}

/** HealthCheckResponse: field 1 is the status; one that is left out is 0. */
function readStatus(body: Buffer): number {
  return body[framePrefix] === firstFieldNumber ? (body[framePrefix + 1] ?? 0) : 0;
}
