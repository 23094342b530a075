import type { Server as Http1Server } from "node:http";
import type { Http2Server } from "node:http2";
import type { Socket } from "node:net";

/**
 * One cleartext port for HTTP/1.1 and HTTP/2 with prior knowledge: looks at the first bytes of each connection of `http1` and hands those
 * that begin with the HTTP/2 preface to `http2`. A connection that sends nothing is dropped after `firstByteMs`.
 */
export function shareCleartextPort(http1: Http1Server, http2: Http2Server, firstByteMs: number): void {
  const serveHttp1 = http1.listeners("connection");
  http1.removeAllListeners("connection");
  http1.on("connection", (socket: Socket) => {
    sniff(socket, firstByteMs, (speaksHttp2) => {
      if (speaksHttp2) {
        // HTTP/1.1 answers a client that has said all it will say; of HTTP/2 nothing is left when a client goes.
        socket.allowHalfOpen = false;
        http2.emit("connection", socket);
      } else for (const serve of serveHttp1) serve.call(http1, socket);
    });
  });
}

// No HTTP/1 method begins like this (RFC 9113, 3.4).
const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

function sniff(socket: Socket, firstByteMs: number, decide: (speaksHttp2: boolean) => void): void {
  const timer = setTimeout(() => socket.destroy(), firstByteMs);
  let seen: Buffer = Buffer.alloc(0);
  const look = () => {
    const chunk: Buffer | null = socket.read();
    if (chunk === null) return;
    seen = Buffer.concat([seen, chunk]);
    const length = Math.min(seen.length, preface.length);
    const fits = seen.subarray(0, length).equals(preface.subarray(0, length));
    if (fits && length < preface.length) return;
    leave();
    socket.unshift(seen);
    decide(fits);
  };
  const leave = () => {
    clearTimeout(timer);
    socket.off("readable", look).off("error", drop).off("close", leave).off("end", drop);
  };
  const drop = () => {
    leave();
    socket.destroy();
  };
  socket.on("readable", look).on("error", drop).on("close", leave).on("end", drop);
}
