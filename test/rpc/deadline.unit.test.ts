import { expect, test } from "vitest";
import { connectTimeoutMs, grpcTimeoutMs } from "../../src/rpc/deadline.ts";

test.each([
  ["1H", 3_600_000],
  ["2M", 120_000],
  ["3S", 3000],
  ["4m", 4],
  ["5000u", 5],
  ["6000000n", 6],
  ["0m", 0],
  ["99999999H", 2 ** 31 - 1],
])("grpc-timeout %s is %d ms", (header, timeoutMs) => {
  expect(grpcTimeoutMs(header)).toBeCloseTo(timeoutMs, 6);
});

test("connect-timeout-ms is milliseconds, cut to what a timer can wait", () => {
  expect(connectTimeoutMs("1500")).toBe(1500);
  expect(connectTimeoutMs("9999999999")).toBe(2 ** 31 - 1);
});

test("no header is no deadline", () => {
  expect(grpcTimeoutMs(undefined)).toBeUndefined();
  expect(connectTimeoutMs(undefined)).toBeUndefined();
});

test.each(["", "1", "S", "-1S", "1.5S", "123456789S", "1s ", "1D"])("grpc-timeout %j is refused", (header) => {
  expect(() => grpcTimeoutMs(header)).toThrow("grpc-timeout");
});

test.each(["", "1s", "-1", "12345678901"])("connect-timeout-ms %j is refused", (header) => {
  expect(() => connectTimeoutMs(header)).toThrow("connect-timeout-ms");
});
