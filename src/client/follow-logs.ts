import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { CallOptions, Client } from "@connectrpc/connect";
import type { StreamLogsRequestSchema, StreamLogsResponse, Supervisor } from "../../gen/steward/v1/supervisor_pb.ts";
import { resumed, type WatchOptions } from "./resume.ts";

export type LogsRequest = Omit<MessageInitShape<typeof StreamLogsRequestSchema>, "$typeName" | "follow">;

/** Ends when the signal aborts or the service is deleted. */
export async function* followLogs(
  supervisor: Client<typeof Supervisor>,
  request: LogsRequest,
  options: WatchOptions,
): AsyncGenerator<StreamLogsResponse, void> {
  const { tailLines, since, cursor, ...rest } = request;
  let beginning: Pick<LogsRequest, "tailLines" | "since" | "cursor"> = {
    ...(tailLines === undefined ? {} : { tailLines }),
    ...(since === undefined ? {} : { since }),
    ...(cursor === undefined ? {} : { cursor }),
  };
  const open = (call: CallOptions) => {
    const stream = supervisor.streamLogs({ ...rest, ...beginning, follow: true }, call);
    // If this one ends before anything came, the end that was asked for still is that of now.
    if (beginning.tailLines === 0) beginning = { since: timestampFromDate(new Date()) };
    return stream;
  };
  for await (const item of resumed(open, { ...options, mayEnd: true })) {
    if (item.kind === "interrupted") continue;
    beginning = { cursor: item.message.cursor };
    yield item.message;
  }
}
