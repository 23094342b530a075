import { afterAll, beforeAll, expect, test } from "vitest";
import { goodSecret, type Rig, startRig } from "./rig.ts";

const page = "https://dashboard.example";
let rig: Rig;

beforeAll(async () => {
  rig = await startRig({}, { corsOrigins: ["http://localhost:3000", page] });
});

afterAll(() => rig[Symbol.asyncDispose]());

test.each([
  ["Connect", ["authorization", "connect-protocol-version", "connect-timeout-ms", "content-type", "x-request-id"]],
  ["gRPC-Web", ["authorization", "content-type", "grpc-timeout", "x-grpc-web", "x-user-agent"]],
])("a listed page may call over %s, and its browser is told so before it asks for a token", async (_, headers) => {
  const asked = await preflight(page, headers.join(","));

  expect(asked.status).toBe(200);
  expect(asked.headers.get("access-control-allow-origin")).toBe(page);
  expect(words(asked.headers.get("access-control-allow-methods"))).toEqual(expect.arrayContaining(["get", "post"]));
  expect(words(asked.headers.get("access-control-allow-headers"))).toEqual(expect.arrayContaining(headers));
  expect(Number(asked.headers.get("access-control-max-age"))).toBeGreaterThan(0);
  expect(asked.headers.get("vary")).toBe("Origin");
  expect(asked.headers.has("access-control-allow-credentials")).toBe(false);
});

test.each(["https://evil.example", "https://dashboard.example.evil.example", "null", "HTTPS://DASHBOARD.EXAMPLE"])(
  "a page of %s is told nothing, and its browser asks no further",
  async (origin) => {
    const asked = await preflight(origin, "authorization");
    expect(asked.status).toBe(403);
    const answered = await list({ origin });

    for (const { headers } of [asked, answered]) {
      expect([...headers.keys()].filter((name) => name.startsWith("access-control"))).toEqual([]);
      expect(headers.get("vary")).toBe("Origin");
    }
  },
);

test.each([
  ["application/json", {}, 200],
  ["application/json", { authorization: "Bearer wrong" }, 401],
  ["application/grpc-web+proto", {}, 200],
  ["application/grpc-web+proto", { authorization: "Bearer wrong" }, 200],
])("answers and refusals over %s can be read by a listed page", async (contentType, headers, status) => {
  const answered = await list({ origin: page, "content-type": contentType, ...headers });

  expect(answered.status).toBe(status);
  expect(answered.headers.get("access-control-allow-origin")).toBe(page);
  expect(words(answered.headers.get("access-control-expose-headers"))).toEqual(
    expect.arrayContaining(["grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id"]),
  );
});

test("an unknown method can be read as such, plain pages are not for other origins", async () => {
  const unknown = await fetch(url("/steward.v1.ServiceRegistry/Nothing"), {
    method: "POST",
    headers: { origin: page },
  });
  const metrics = await fetch(url("/metrics"), { headers: { origin: page } });

  expect(unknown.headers.get("access-control-allow-origin")).toBe(page);
  expect(metrics.headers.get("access-control-allow-origin")).toBeNull();
});

test("without a list no page may call", async () => {
  await using closed = await startRig();
  const path = "/steward.v1.ServiceRegistry/List";
  const asked = await fetch(`http://127.0.0.1:${closed.connectPort}${path}`, {
    method: "OPTIONS",
    headers: { origin: page, "access-control-request-method": "POST" },
  });

  expect(asked.status).toBe(403);
  expect(asked.headers.get("access-control-allow-origin")).toBeNull();
});

function url(path: string): string {
  return `http://127.0.0.1:${rig.connectPort}${path}`;
}

function preflight(origin: string, headers: string): Promise<Response> {
  return fetch(url("/steward.v1.ServiceRegistry/List"), {
    method: "OPTIONS",
    headers: { origin, "access-control-request-method": "POST", "access-control-request-headers": headers },
  });
}

function list(headers: Record<string, string>): Promise<Response> {
  const isJson = headers["content-type"] !== "application/grpc-web+proto";
  return fetch(url("/steward.v1.ServiceRegistry/List"), {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${goodSecret}`, ...headers },
    body: isJson ? "{}" : new Uint8Array(5),
  });
}

function words(header: string | null): string[] {
  return (header ?? "").toLowerCase().split(", ");
}
