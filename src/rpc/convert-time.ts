import { type Duration, durationMs, type Timestamp, timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";

export function timeToProto(date: Date | undefined): Timestamp | undefined {
  return date === undefined ? undefined : timestampFromDate(date);
}

export function timeFromProto(time: Timestamp | undefined): Date | undefined {
  return time === undefined ? undefined : timestampDate(time);
}

/** Rounded to whole milliseconds; undefined stays undefined, so that a default can apply. */
export function durationFromProto(duration: Duration | undefined): number | undefined {
  return duration === undefined ? undefined : durationMs(duration);
}
