import type { IncomingMessage } from "node:http";
import type { Limits } from "./limits.ts";
import type { HttpResponse } from "./pages.ts";

/**
 * The body of a request over HTTP/1.1. Who stops reading it early may still answer: the rest is read and thrown away afterwards, because a client
 * that is still writing when its connection ends loses our answer, and one that has written all of it goes on with the same connection.
 */
export function bodyOf(request: IncomingMessage, response: HttpResponse, limits: Limits): AsyncIterable<Uint8Array> {
  response.on("finish", () => throwAwayRest(request, limits));
  // Whoever reads hears of a client that hangs up. Who has just stopped reading does not, and an error that nobody hears ends the process.
  request.on("error", () => undefined);
  return request.iterator({ destroyOnReturn: false });
}

function throwAwayRest(request: IncomingMessage, { restBytes, restMs }: Limits): void {
  request.resume();
  if (request.complete) return;
  const { socket } = request;
  let left = restBytes;
  const hangUp = setTimeout(() => socket.destroy(), restMs).unref();
  request.on("data", (chunk: Buffer) => {
    left -= chunk.length;
    if (left < 0) socket.destroy();
  });
  request.once("close", () => clearTimeout(hangUp));
}
