import { Agent, request as httpRequest } from "node:http";
import { type ClientHttp2Session, connect, constants } from "node:http2";
import { cpuMsOf } from "./scene.ts";

/** What to send over and over. The clients are as thin as can be, so that the server is what is measured. */
export interface Target {
  readonly origin: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** What each of the workers sends next. */
  readonly body: (worker: number) => Buffer;
}

export interface Caller {
  /** Resolves when the call was answered well. */
  call(worker: number): Promise<void>;
}

/** A client of one protocol that keeps its connections. */
export interface ConnectedCaller extends Caller {
  close(): void;
}

const connections = 4;

/** How many workers there are, each with one call at a time. */
export const inFlight = 32;

/** Has all workers call for a while; returns how many calls were answered. */
export async function callsWithin(caller: Caller, durationMs: number): Promise<number> {
  const end = performance.now() + durationMs;
  let calls = 0;
  const work = async (worker: number) => {
    while (performance.now() < end) {
      await caller.call(worker);
      calls += 1;
    }
  };
  await Promise.all(Array.from({ length: inFlight }, (_, worker) => work(worker)));
  return calls;
}

export interface Rates {
  readonly perSecond: number;
  readonly perCpuSecond: number;
}

/** Has all workers call for a while: how many calls were answered by the clock, and by the CPU of the server's process. */
export async function ratesWithin(caller: Caller, pid: number, durationMs: number): Promise<Rates> {
  const [startedMs, cpuMs] = [performance.now(), await cpuMsOf(pid)];
  const calls = await callsWithin(caller, durationMs);
  const [tookMs, usedMs] = [performance.now() - startedMs, (await cpuMsOf(pid)) - cpuMs];
  return { perSecond: (calls / tookMs) * 1000, perCpuSecond: (calls / usedMs) * 1000 };
}

export function http2Caller({ origin, path, headers, body }: Target): ConnectedCaller {
  const sessions = Array.from({ length: connections }, () => connect(origin));
  const all = { ":method": "POST", ":path": path, ...headers };
  return {
    call: (worker) => callOn(sessions[worker % connections], all, body(worker)),
    close: () => {
      for (const session of sessions) session.close();
    },
  };
}

function callOn(session: ClientHttp2Session | undefined, headers: Record<string, string>, body: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    if (session === undefined) return reject(new Error("no session"));
    const stream = session.request(headers);
    let grpcStatus: unknown;
    let status: unknown;
    stream.on("response", (received) => {
      status = received[constants.HTTP2_HEADER_STATUS];
      grpcStatus = received["grpc-status"];
    });
    stream.on("trailers", (received) => (grpcStatus = received["grpc-status"]));
    stream.on("error", reject);
    stream.on("close", () => {
      if (status === 200 && (grpcStatus === undefined || grpcStatus === "0")) resolve();
      else reject(new Error(`the call was answered with ${String(status)}, grpc-status ${String(grpcStatus)}`));
    });
    stream.resume();
    stream.end(body);
  });
}

export function http1Caller({ origin, path, headers, body }: Target): ConnectedCaller {
  const agent = new Agent({ keepAlive: true, maxSockets: inFlight });
  const url = new URL(path, origin);
  return {
    call: (worker) =>
      new Promise((resolve, reject) => {
        const bytes = body(worker);
        const length = { "content-length": bytes.length };
        const request = httpRequest(url, { method: "POST", agent, headers: { ...headers, ...length } });
        request.on("error", reject);
        request.on("response", (response) => {
          response.resume();
          response.on("end", () => {
            if (response.statusCode === 200) resolve();
            else reject(new Error(`the call was answered with ${response.statusCode}`));
          });
        });
        request.end(bytes);
      }),
    close: () => agent.destroy(),
  };
}

/** A message of gRPC: not compressed, its length, its bytes. */
export function framed(bytes: Uint8Array): Buffer {
  const frame = Buffer.alloc(5 + bytes.length);
  frame.writeUInt32BE(bytes.length, 1);
  frame.set(bytes, 5);
  return frame;
}
