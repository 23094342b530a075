import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { setTimeout as delay } from "node:timers/promises";

export interface HttpProbe {
  /** The origin that the service listens at, `http(s)://HOST:PORT`. */
  readonly url: string;
  /** What is asked for, "/services/NAME/". */
  readonly path: string;
}

export interface ReadinessOptions {
  readonly deadlineMs: number;
  readonly signal: AbortSignal;
  /** Of one try; default 2 s. */
  readonly tryTimeoutMs?: number;
}

export type ProbeAnswer =
  | { readonly ready: true; readonly status: number }
  /** `problem` says why not, for people. */
  | { readonly ready: false; readonly status: number | undefined; readonly problem: string };

/**
 * Asks again and again, after 0.2 s growing to 5 s, until the service is ready or the deadline is over; resolves with the
 * last answer. Rejects only when the signal aborts. Source of the rule: JupyterHub, wait_for_http_server.
 */
export async function untilReady(
  probe: HttpProbe,
  { deadlineMs, signal, tryTimeoutMs = 2_000 }: ReadinessOptions,
): Promise<ProbeAnswer> {
  const deadline = performance.now() + deadlineMs;
  for (let pauseMs = 200; ; pauseMs = Math.min(pauseMs * 2, 5_000)) {
    const leftMs = Math.max(1, deadline - performance.now());
    const answer = await probeOnce(probe, { timeoutMs: Math.min(tryTimeoutMs, leftMs), signal });
    const restMs = deadline - performance.now();
    if (answer.ready || restMs <= 0) return answer;
    await delay(Math.min(pauseMs, restMs), undefined, { signal });
  }
}

/**
 * One GET. Any status below 500 is ready: a service that answers 302 or 403 is up. No redirect is followed, no body is
 * read. Rejects only when the signal aborts.
 */
export async function probeOnce(
  { url, path }: HttpProbe,
  { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal },
): Promise<ProbeAnswer> {
  signal.throwIfAborted();
  const target = new URL(path, url);
  const limit = AbortSignal.timeout(Math.ceil(timeoutMs));
  try {
    return judge(await statusOf(target, AbortSignal.any([signal, limit])));
  } catch (error) {
    signal.throwIfAborted();
    const problem = limit.aborted ? `no answer within ${Math.round(timeoutMs)} ms` : describe(error);
    return { ready: false, status: undefined, problem };
  }
}

function judge(status: number): ProbeAnswer {
  return status < 500 ? { ready: true, status } : { ready: false, status, problem: `it answers ${status}` };
}

/**
 * A certificate is not verified: the question is whether somebody listens, nothing is sent or believed, and services
 * behind a proxy rightly have certificates of their own making.
 */
function statusOf(target: URL, signal: AbortSignal): Promise<number> {
  return new Promise((resolve, reject) => {
    const options = { agent: false, signal, headers: { "user-agent": "steward-probe", connection: "close" } };
    const request =
      target.protocol === "https:"
        ? httpsRequest(target, { ...options, rejectUnauthorized: false })
        : httpRequest(target, options);
    request.once("response", (response) => {
      resolve(response.statusCode ?? 0);
      response.destroy();
    });
    request.on("error", reject);
    request.end();
  });
}

function describe(error: unknown): string {
  if (error instanceof AggregateError) return describe(error.errors[0]);
  return error instanceof Error ? error.message : String(error);
}
