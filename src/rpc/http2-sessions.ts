import type { ServerHttp2Session } from "node:http2";
import { constants } from "node:http2";
import type { Limits } from "./limits.ts";
import { jittered } from "./stream-age.ts";

type SessionLimits = Pick<Limits, "pingEveryMs" | "pingTimeoutMs" | "connectionAgeMs" | "connectionAgeGraceMs">;

/** Keeps the HTTP/2 connections of a listener: finds dead ones by pings, sends old ones away so that load spreads, and closes all at the end. */
export class Http2Sessions {
  readonly #limits: SessionLimits;
  readonly #sessions = new Set<ServerHttp2Session>();
  #isClosing = false;

  constructor(limits: SessionLimits) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#sessions.size;
  }

  /** Takes care of a session until it closes. */
  adopt(session: ServerHttp2Session): void {
    this.#sessions.add(session);
    const ping = setInterval(
      () => pingOrDestroy(session, this.#limits.pingTimeoutMs),
      this.#limits.pingEveryMs,
    ).unref();
    const age = setTimeout(() => this.#retire(session), jittered(this.#limits.connectionAgeMs)).unref();
    session.on("close", () => {
      clearInterval(ping);
      clearTimeout(age);
      this.#sessions.delete(session);
    });
    // A broken connection is the client's affair; its streams see their own end.
    session.on("error", () => undefined);
    if (this.#isClosing) sendAway(session);
  }

  /** Tells every client to go elsewhere (GOAWAY); streams that are open may finish. */
  closeAll(): void {
    this.#isClosing = true;
    for (const session of this.#sessions) sendAway(session);
  }

  /** Ends every connection now, with CANCEL for the streams that remain. */
  destroyAll(): void {
    for (const session of this.#sessions) session.destroy();
  }

  #retire(session: ServerHttp2Session): void {
    sendAway(session);
    const end = setTimeout(() => session.destroy(), this.#limits.connectionAgeGraceMs).unref();
    session.on("close", () => clearTimeout(end));
  }
}

const lastStreamId = 2 ** 31 - 1;
const inFlightMs = 100;

// First "no more", with every stream id still accepted, then the real end: what the client sent meanwhile is served, not refused (RFC 9113, 6.8).
function sendAway(session: ServerHttp2Session): void {
  if (session.closed || session.destroyed) return;
  session.goaway(constants.NGHTTP2_NO_ERROR, lastStreamId);
  const close = setTimeout(() => {
    if (!session.destroyed) session.close();
  }, inFlightMs);
  session.on("close", () => clearTimeout(close));
}

function pingOrDestroy(session: ServerHttp2Session, timeoutMs: number): void {
  if (session.destroyed) return;
  const timer = setTimeout(() => session.destroy(), timeoutMs).unref();
  try {
    session.ping((error) => {
      clearTimeout(timer);
      if (error !== null) session.destroy();
    });
  } catch {
    // Too many unanswered pings, or the session ends just now: either way nobody is there.
    clearTimeout(timer);
    session.destroy();
  }
}
