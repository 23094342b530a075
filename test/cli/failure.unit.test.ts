import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { BadRequestSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { parseCount, parseDuration, parseFormat } from "../../src/cli/command.ts";
import { allDone, exitCodeOf, explain, UsageError, wrongFieldsOf } from "../../src/cli/failure.ts";
import { StewardError } from "../../src/client.ts";

const nowhere = () => "http://h:1";

/** What a command gets when the server answers so. */
function answer(message: string, code: Code, details?: ConstructorParameters<typeof ConnectError>[3]): StewardError {
  return new StewardError(new ConnectError(message, code, undefined, details));
}

test.each([
  [Code.InvalidArgument, 2],
  [Code.NotFound, 3],
  [Code.Unauthenticated, 4],
  [Code.PermissionDenied, 4],
  [Code.Aborted, 5],
  [Code.AlreadyExists, 5],
  [Code.FailedPrecondition, 5],
  [Code.Unavailable, 6],
  [Code.DeadlineExceeded, 7],
  [Code.Internal, 1],
  [Code.Canceled, 1],
])("code %i of the server is exit code %i", (code, exitCode) => {
  expect(exitCodeOf(answer("x", code))).toBe(exitCode);
});

test("what is no answer of the server has exit codes too", () => {
  expect(exitCodeOf(new UsageError("x"))).toBe(2);
  expect(exitCodeOf(new Error("x"))).toBe(1);
  expect(exitCodeOf("x")).toBe(1);
  expect(exitCodeOf(new AggregateError([answer("x", Code.NotFound), new Error("y")]))).toBe(3);
});

describe("an error is explained", () => {
  test("by its message, and by what to do about it", () => {
    expect(explain(answer("no", Code.NotFound), nowhere)).toBe("no");
    expect(explain(answer("no", Code.Unavailable), nowhere)).toContain("Tried http://h:1");
    expect(explain(answer("no", Code.Unauthenticated), nowhere)).toContain("STEWARD_TOKEN");
    expect(explain(new Error("no"), nowhere)).toBe("no");
    expect(explain("no", nowhere)).toBe("no");
  });

  test("by every field that is wrong", () => {
    const fieldViolations = [
      { field: "a", description: "must be b" },
      { field: "c", description: "must be d" },
    ];
    const error = answer("a: must be b (and 1 more)", Code.InvalidArgument, [
      { desc: BadRequestSchema, value: { fieldViolations } },
    ]);

    expect(explain(error, nowhere)).toBe("the request is wrong:\n  a: must be b\n  c: must be d");
    expect(wrongFieldsOf(error)).toMatchObject(fieldViolations);
    expect(wrongFieldsOf(new Error("x"))).toEqual([]);
  });
});

test("of several things at once all are waited for, and all failures are thrown", async () => {
  let done = false;
  const late = Promise.resolve().then(() => (done = true));

  await expect(allDone([Promise.reject(new Error("a")), late, Promise.reject(new Error("b"))])).rejects.toMatchObject({
    errors: [new Error("a"), new Error("b")],
  });
  expect(done).toBe(true);
  await expect(allDone([late])).resolves.toBeUndefined();
});

describe("the words of a command line", () => {
  test.each([
    ["250ms", 250],
    ["30", 30_000],
    ["1.5s", 1_500],
    ["5m", 300_000],
    ["2h", 7_200_000],
    ["7d", 604_800_000],
  ])("%s is a duration", (text, ms) => expect(parseDuration(text)).toBe(ms));

  test.each(["", "s", "-1s", "1w", "1s2", "soon"])("%j is none", (text) =>
    expect(() => parseDuration(text)).toThrow(UsageError),
  );

  test.each(["-1", "1.5", "x", "", "9999999999"])("%j is no count", (text) =>
    expect(() => parseCount(text)).toThrow(UsageError),
  );

  test("a format is one that the command knows", () => {
    expect(parseFormat("table", "json")("json")).toBe("json");
    expect(() => parseFormat("table", "json")("yaml")).toThrow('-o is one of table, json, not "yaml"');
  });
});
