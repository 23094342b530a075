import { isIP } from "node:net";
import type { FieldViolation } from "./errors.ts";

/** What a url may not lead to: our own listeners, the proxy's API, the database. */
export interface ForbiddenTarget {
  readonly host: string;
  readonly port: number;
}

export interface UrlRules {
  readonly managed: boolean;
  readonly forbidden: readonly ForbiddenTarget[];
}

/**
 * Takes a url apart to its origin, or says what is wrong with it. Urls are hostile input: the proxy and the probe connect to them.
 * `new URL` writes decimal, hexadecimal and octal IPv4 in the usual form, so that the checks see one form only.
 */
export function parseServiceUrl(url: string, field: string, rules: UrlRules): { url: string } | FieldViolation {
  const wrong = (description: string): FieldViolation => ({ field, description });
  if (/[\s\\]/.test(url) || !URL.canParse(url)) return wrong("must be http://HOST:PORT or https://HOST:PORT");
  const parsed = new URL(url);
  if (parsed.protocol !== "http:" && parsed.protocol !== "https:")
    return wrong(`must start with http:// or https://, not ${parsed.protocol}//`);
  if (parsed.username !== "" || parsed.password !== "") return wrong("must not hold a user name or password");
  if (parsed.pathname !== "/" || parsed.search !== "" || parsed.hash !== "" || /[?#]/.test(url)) {
    return wrong("must not have a path, query or fragment: requests are forwarded with their own path");
  }
  const port = portOf(parsed);
  if (port === 0 && !rules.managed)
    return wrong("port 0 is for managed services: somebody else's service must say its port");
  const host = parsed.hostname.replaceAll(/^\[|\]$/g, "");
  if (isForbiddenAddress(host))
    return wrong(`${host} is a link-local, metadata, multicast or unspecified address, which no service may have`);
  if (rules.forbidden.some((target) => target.port === port && port !== 0 && sameHost(target.host, host))) {
    return wrong(`${host}:${port} is an address of Steward itself`);
  }
  return { url: port === 0 || parsed.port !== "" ? `${parsed.protocol}//${parsed.hostname}:${port}` : parsed.origin };
}

/** Whether a url asks Steward to pick its port. */
export function picksPort(url: string | undefined): boolean {
  return url !== undefined && new URL(url).port === "0";
}

/** The url with the picked port in place of 0. */
export function withPort(url: string, port: number): string {
  const parsed = new URL(url);
  return `${parsed.protocol}//${parsed.hostname}:${port}`;
}

export function portOf(url: URL): number {
  if (url.port !== "") return Number(url.port);
  return url.protocol === "https:" ? 443 : 80;
}

function isForbiddenAddress(host: string): boolean {
  switch (isIP(host)) {
    case 4:
      return isForbiddenIpv4(host);
    case 6:
      return isForbiddenIpv6(host);
    default:
      return ["metadata.google.internal", "metadata", "instance-data"].includes(host.toLowerCase().replace(/\.$/, ""));
  }
}

function isForbiddenIpv4(address: string): boolean {
  const [first = 0, second = 0] = address.split(".").map(Number);
  return (
    first === 0 ||
    first >= 224 ||
    (first === 169 && second === 254) ||
    address === "100.100.100.200" ||
    address === "192.0.0.192"
  );
}

function isForbiddenIpv6(address: string): boolean {
  const mapped = mappedIpv4(address);
  if (mapped !== undefined) return isForbiddenIpv4(mapped);
  return (
    address === "::" || /^fe[89ab]/i.test(address) || /^ff/i.test(address) || address.toLowerCase() === "fd00:ec2::254"
  );
}

/** `::ffff:7f00:1`, as `new URL` writes it, is 127.0.0.1. */
function mappedIpv4(address: string): string | undefined {
  const [, high, low] = /^::(?:ffff:)?([0-9a-f]{1,4}):([0-9a-f]{1,4})$/i.exec(address) ?? [];
  if (high === undefined || low === undefined) return undefined;
  const bits = [Number.parseInt(high, 16), Number.parseInt(low, 16)];
  return bits.flatMap((part) => [part >> 8, part & 255]).join(".");
}

function sameHost(ours: string, theirs: string): boolean {
  return canonical(ours) === canonical(theirs) || (isWildcard(ours) && isLoopback(theirs));
}

function canonical(host: string): string {
  const plain = mappedIpv4(host) ?? host.toLowerCase().replace(/\.$/, "");
  return isLoopback(plain) ? "localhost" : plain;
}

function isLoopback(host: string): boolean {
  const plain = mappedIpv4(host) ?? host.toLowerCase().replace(/\.$/, "");
  return plain === "localhost" || plain.endsWith(".localhost") || plain === "::1" || /^127\./.test(plain);
}

function isWildcard(host: string): boolean {
  return host === "0.0.0.0" || host === "::";
}
