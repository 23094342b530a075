import { type Duration, durationMs } from "@bufbuild/protobuf/wkt";
import type { Probe } from "../../gen/steward/v1/service_pb.ts";
import { quoteWord } from "./words.ts";

/** A probe in one line: `HTTP /health on port 8080, every 10s, timeout 2s, 3 failures`; empty: none. */
export function probeWords(probe: Probe | undefined): string {
  if (probe === undefined) return "";
  const { period, timeout, failureThreshold, successThreshold } = probe;
  return [
    actionWords(probe.kind),
    `every ${seconds(period)}`,
    `timeout ${seconds(timeout)}`,
    `${failureThreshold} ${failureThreshold === 1 ? "failure" : "failures"}`,
    ...(successThreshold === 1 ? [] : [`${successThreshold} successes`]),
  ].join(", ");
}

function actionWords(kind: Probe["kind"]): string {
  switch (kind.case) {
    case "http":
      return `HTTP ${kind.value.path === "" ? "at its prefix" : kind.value.path}${onPort(kind.value.port)}`;
    case "tcp":
      return `TCP${onPort(kind.value.port)}`;
    case "grpc":
      return `gRPC health${kind.value.service === "" ? "" : ` of ${kind.value.service}`}${onPort(kind.value.port)}`;
    case "exec":
      return `command ${kind.value.command.map(quoteWord).join(" ")}`;
    case "notify":
      return `a line on descriptor ${kind.value.fd}`;
    case undefined:
      return "";
  }
}

function onPort(port: number): string {
  return port === 0 ? "" : ` on port ${port}`;
}

function seconds(duration: Duration | undefined): string {
  return duration === undefined ? "-" : `${durationMs(duration) / 1_000}s`;
}
