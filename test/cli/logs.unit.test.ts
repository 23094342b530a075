import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { describe, expect, test } from "vitest";
import { LogStream, type StreamLogsRequest, StreamLogsResponseSchema } from "../../gen/steward/v1/supervisor_pb.ts";
import { parsePast, type Session } from "../../src/cli/command.ts";
import { UsageError } from "../../src/cli/failure.ts";
import { showLogs } from "../../src/cli/logs.ts";
import { TestScreen } from "./screen.ts";

const { STDOUT, STDERR } = LogStream;
const first = new Date("2026-01-31T08:00:00.250Z");
const second = new Date("2026-01-31T08:00:01Z");

const written: [LogStream, string | Uint8Array, Date][] = [
  [STDOUT, "one\ntw", first],
  [STDERR, "oops\n", first],
  [STDOUT, "o\n\nthree\n", second],
];

test("bytes go out as they are, stderr to stderr", async () => {
  const { session, screen } = sessionWith(written);

  await showLogs(session, "x", {});

  expect(screen).toMatchObject({ out: "one\ntwo\n\nthree\n", error: "oops\n" });
});

test("the time stands before each line, once, also where a line comes in pieces", async () => {
  const { session, screen } = sessionWith(written);

  await showLogs(session, "x", { timestamps: true });

  const [one, two] = [first.toISOString(), second.toISOString()];
  expect(screen.out).toBe(`${one} one\n${one} two\n${two} \n${two} three\n`);
  expect(screen.error).toBe(`${one} oops\n`);
});

test("asks for what was written since a time, of one stream", async () => {
  const { session, requests } = sessionWith([]);

  await showLogs(session, "x", { since: first, stream: "stderr" });

  expect(requests).toMatchObject([{ name: "x", streams: [STDERR], since: timestampFromDate(first) }]);
});

describe("a time in the past", () => {
  const now = new Date("2026-01-31T09:00:00Z");

  test.each([
    ["15m", "2026-01-31T08:45:00.000Z"],
    ["30", "2026-01-31T08:59:30.000Z"],
    ["2026-01-31T08:00:00Z", "2026-01-31T08:00:00.000Z"],
    ["2026-01-30", "2026-01-30T00:00:00.000Z"],
  ])("%s", (text, expected) => expect(parsePast(text, now).toISOString()).toBe(expected));

  test.each(["yesterday", "15 parsecs", "", "5y"])("%j is none", (text) =>
    expect(() => parsePast(text, now)).toThrow(UsageError),
  );
});

function sessionWith(chunks: typeof written) {
  const screen = new TestScreen();
  const requests: StreamLogsRequest[] = [];
  const supervisor = {
    async *streamLogs(request: StreamLogsRequest) {
      requests.push(request);
      for (const [stream, data, time] of chunks)
        yield create(StreamLogsResponseSchema, { stream, data: Buffer.from(data), time: timestampFromDate(time) });
    },
  };
  const { signal } = new AbortController();
  return { screen, requests, session: { screen, supervisor, signal } as unknown as Session };
}
