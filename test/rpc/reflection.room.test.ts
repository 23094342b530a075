import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { goodSecret, type Rig, startRig } from "./rig.ts";

const run = promisify(execFile);
const buf = new URL("../../node_modules/.bin/buf", import.meta.url).pathname;

let rig: Rig;

beforeAll(async () => {
  rig = await startRig();
});

afterAll(() => rig[Symbol.asyncDispose]());

describe.each(["connectPort", "grpcPort"] as const)("a generic client without any proto file, on %s", (port) => {
  test.each(["grpc-v1", "grpc-v1alpha"])("lists the services and their methods over %s", async (version) => {
    const services = await curl(port, version, "--list-services");
    expect(services.split("\n")).toEqual(
      expect.arrayContaining([
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "steward.v1.ServiceRegistry",
      ]),
    );

    const methods = await curl(port, version, "--list-methods");
    expect(methods).toContain("steward.v1.ServiceRegistry/WatchServices");
  });

  test("calls a method", async () => {
    const answer = await curl(port, "grpc-v1", "-d", "{}", "/steward.v1.ServiceRegistry/List");

    expect(JSON.parse(answer)).toEqual({ revision: "7" });
  });

  test("sees the rules and details of an error", async () => {
    const failure = await curl(port, "grpc-v1", "-d", "{}", "/steward.v1.ServiceRegistry/Get").catch((error: unknown) =>
      String(error),
    );

    expect(failure).toContain("google.rpc.BadRequest");
    expect(failure).toContain("buf.validate.Violations");
  });
});

test("without a token there is nothing to see", async () => {
  await expect(curl("grpcPort", "grpc-v1", "--list-services", "-H", "authorization: Bearer wrong")).rejects.toThrow();
});

async function curl(port: "connectPort" | "grpcPort", version: string, ...args: string[]): Promise<string> {
  const method = args.find((arg) => arg.startsWith("/")) ?? "";
  const rest = args.filter((arg) => arg !== method);
  const authorization = `authorization: Bearer ${goodSecret}`;
  const token = args.includes("-H") ? [] : ["-H", authorization, "--reflect-header", authorization];
  const common = ["curl", "--protocol", "grpc", "--http2-prior-knowledge", "--reflect-protocol", version];
  const { stdout } = await run(buf, [...common, ...token, ...rest, `http://127.0.0.1:${rig[port]}${method}`]);
  return stdout;
}
