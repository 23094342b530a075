import { LogStream } from "../../gen/steward/v1/supervisor_pb.ts";
import type { Session } from "./command.ts";

export interface LogOptions {
  readonly follow?: boolean;
  readonly tail?: number;
  readonly stream?: "stdout" | "stderr";
}

/** `steward logs NAME`: what the service wrote, bytes as they are; its stderr goes to ours. */
export async function showLogs(session: Session, name: string, options: LogOptions): Promise<void> {
  const streams =
    options.stream === undefined ? [] : [options.stream === "stdout" ? LogStream.STDOUT : LogStream.STDERR];
  const request = {
    name,
    streams,
    follow: options.follow === true,
    ...(options.tail === undefined ? {} : { tailLines: options.tail }),
  };
  try {
    for await (const { stream, data } of session.supervisor.streamLogs(request, { signal: session.signal })) {
      if (stream === LogStream.STDERR) session.screen.writeError(data);
      else session.screen.write(data);
    }
  } catch (error) {
    if (!session.signal.aborted) throw error;
  }
}
