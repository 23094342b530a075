import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { type Address, originOf } from "./address.ts";
import { no, type Question, within, yes } from "./question.ts";

/** One GET. Any status below 500 is a success: a service that answers 302 or 403 is up. No redirect is followed, no body is read. */
export function httpQuestion(address: Address, path: string): Question {
  return {
    subject: `${originOf(address)}${path}`,
    ask: (signal, timeoutMs) =>
      within(signal, timeoutMs, async (limit) => {
        const status = await statusOf(address, path, limit);
        return status < 500 ? yes(`it answers ${status}`) : no(`it answers ${status}`);
      }),
  };
}

/**
 * A certificate is not verified: the question is whether somebody listens, nothing is sent or believed, and services
 * behind a proxy rightly have certificates of their own making. The path is given apart from the origin, because one that
 * begins with two slashes would name another host in a url.
 */
function statusOf(address: Address, path: string, signal: AbortSignal): Promise<number> {
  return new Promise((resolve, reject) => {
    const headers = { "user-agent": "steward-probe", connection: "close" };
    const options = { path, agent: false, signal, headers };
    const request = address.isTls
      ? httpsRequest(originOf(address), { ...options, rejectUnauthorized: false })
      : httpRequest(originOf(address), options);
    request.once("response", (response) => {
      resolve(response.statusCode ?? 0);
      response.destroy();
    });
    request.on("error", reject);
    request.end();
  });
}
