import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";

export type HttpRequest = IncomingMessage | Http2ServerRequest;
export type HttpResponse = ServerResponse | Http2ServerResponse;

/** Answers plain HTTP requests, those that call no method. */
export type HttpHandler = (request: HttpRequest, response: HttpResponse) => void;

export interface PagesOptions {
  /** Why the server is not ready, or undefined if it is. Asked on each request. */
  readonly unready: () => string | undefined;
  /** The text of all metrics and its content type. */
  readonly metrics: { metrics(): Promise<string>; readonly contentType: string };
  /** Everything else on this port: the dashboard, another API. Without it: 404. */
  readonly fallback?: HttpHandler;
}

/** The pages for machines that watch the server: `/healthz` (the process answers), `/readyz` (it can serve), `/metrics` (Prometheus). */
export function pages({ unready, metrics, fallback = notFound }: PagesOptions): HttpHandler {
  const shared = sharedWhileAsked(() => metrics.metrics());
  const answers = new Map<string, (response: HttpResponse) => void>([
    ["/healthz", (response) => sendText(response, 200, "ok\n")],
    ["/readyz", (response) => sendReadiness(response, unready())],
    ["/metrics", (response) => void sendMetrics(response, shared(), metrics.contentType)],
  ]);
  return (request, response) => {
    const answer = answers.get(pathOf(request));
    if (answer === undefined) fallback(request, response);
    else if (request.method === "GET" || request.method === "HEAD") answer(response);
    else sendText(response, 405, "only GET\n", { allow: "GET, HEAD" });
  };
}

/** The path of a request without its query. */
export function pathOf(request: HttpRequest): string {
  const url = request.url ?? "";
  const query = url.indexOf("?");
  return query < 0 ? url : url.slice(0, query);
}

/** Sends a whole response; one that is gone already is left alone. */
export function send(response: HttpResponse, status: number, headers: Record<string, string>, body: string): void {
  if (response.destroyed || response.headersSent) return;
  // A client of gRPC takes headers for a whole answer only if the stream ends with them.
  if (body === "" && "stream" in response) {
    // The response does not know yet what became of its stream.
    if (response.stream.destroyed || response.stream.closed) return;
    response.stream.respond({ ...response.getHeaders(), ...headers, ":status": status }, { endStream: true });
    return;
  }
  const length = String(Buffer.byteLength(body));
  // The two kinds of response share this method, but TypeScript cannot call the union of their overloads.
  const plain = response as ServerResponse;
  plain.writeHead(status, { ...headers, "content-length": length });
  plain.end(body);
}

function sendText(response: HttpResponse, status: number, text: string, headers: Record<string, string> = {}): void {
  send(
    response,
    status,
    { "content-type": "text/plain; charset=utf-8", "cache-control": "no-store", ...headers },
    text,
  );
}

function sendReadiness(response: HttpResponse, reason: string | undefined): void {
  if (reason === undefined) sendText(response, 200, "ready\n");
  else sendText(response, 503, `${reason}\n`);
}

/** Who asks while an answer is being made gets that one: a hundred requests in one packet cost what one does. */
function sharedWhileAsked<T>(make: () => Promise<T>): () => Promise<T> {
  let current: Promise<T> | undefined;
  return () => {
    current ??= make().finally(() => {
      current = undefined;
    });
    return current;
  };
}

async function sendMetrics(response: HttpResponse, text: Promise<string>, contentType: string): Promise<void> {
  try {
    send(response, 200, { "content-type": contentType }, await text);
  } catch {
    sendText(response, 500, "the metrics cannot be read\n");
  }
}

function notFound(_request: HttpRequest, response: HttpResponse): void {
  sendText(response, 404, "not found\n");
}
