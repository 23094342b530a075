import { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { LogStream, type StreamLogsResponse } from "../../gen/steward/v1/supervisor_pb.ts";
import type { Session } from "./command.ts";
import type { Screen } from "./print.ts";

export interface LogOptions {
  readonly follow?: boolean;
  readonly tail?: number;
  readonly since?: Date;
  readonly timestamps?: boolean;
  readonly stream?: "stdout" | "stderr";
}

/** `steward logs NAME`: what the service wrote, bytes as they are; its stderr goes to ours. With -f over reconnects without gap or duplicate. */
export async function showLogs(session: Session, name: string, options: LogOptions): Promise<void> {
  const { follow = false, tail, since, stream } = options;
  const { supervisor, screen, signal } = session;
  const request = {
    name,
    streams: stream === undefined ? [] : [stream === "stdout" ? LogStream.STDOUT : LogStream.STDERR],
    ...(tail === undefined ? {} : { tailLines: tail }),
    ...(since === undefined ? {} : { since: timestampFromDate(since) }),
  };
  const onInterrupted = ({ message }: Error) => screen.writeError(`the stream ended (${message}), resuming\n`);
  const responses = follow
    ? session.followLogs(request, { signal, onInterrupted })
    : supervisor.streamLogs(request, { signal });
  const show = printer(screen, options.timestamps === true);
  try {
    for await (const response of responses) show(response);
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

/** Writes each response where it belongs; with times, in front of each line. */
function printer(screen: Screen, timestamps: boolean): (response: StreamLogsResponse) => void {
  const isInLine = { [LogStream.STDOUT]: false, [LogStream.STDERR]: false };
  return ({ stream, data, time }) => {
    const key = stream === LogStream.STDERR ? LogStream.STDERR : LogStream.STDOUT;
    const moment = timestamps && time !== undefined ? `${timestampDate(time).toISOString()} ` : "";
    const bytes = moment === "" ? data : withPrefix(data, moment, isInLine[key]);
    isInLine[key] = data.at(-1) !== newline;
    if (key === LogStream.STDERR) screen.writeError(bytes);
    else screen.write(bytes);
  };
}

const newline = 0x0a;

function withPrefix(data: Uint8Array, prefix: string, isInLine: boolean): Buffer {
  const parts: Uint8Array[] = [];
  const before = Buffer.from(prefix);
  for (let begin = 0; begin < data.length; ) {
    const found = data.indexOf(newline, begin);
    const end = found < 0 ? data.length : found + 1;
    if (begin > 0 || !isInLine) parts.push(before);
    parts.push(data.subarray(begin, end));
    begin = end;
  }
  return Buffer.concat(parts);
}
