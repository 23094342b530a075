import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import * as proto from "../../gen/steward/v1/service_pb.ts";
import type { Probe, ProbeAction, ProbeActionInput, ProbeInput } from "../domain/probe.ts";
import { durationFromProto } from "./convert-time.ts";

/** What a client wrote: zeros stand for defaults. */
export function probeFromProto(probe: proto.Probe | undefined): ProbeInput | undefined {
  if (probe === undefined) return undefined;
  return {
    action: actionFromProto(probe.kind),
    periodMs: durationFromProto(probe.period),
    timeoutMs: durationFromProto(probe.timeout),
    failureThreshold: probe.failureThreshold || undefined,
    successThreshold: probe.successThreshold || undefined,
  };
}

export function probeToProto(probe: Probe | undefined): proto.Probe | undefined {
  if (probe === undefined) return undefined;
  return create(proto.ProbeSchema, {
    kind: actionToProto(probe.action),
    period: durationFromMs(probe.periodMs),
    timeout: durationFromMs(probe.timeoutMs),
    failureThreshold: probe.failureThreshold,
    successThreshold: probe.successThreshold,
  });
}

function actionFromProto(kind: proto.Probe["kind"]): ProbeActionInput | undefined {
  switch (kind.case) {
    case "http":
      return { kind: "http", path: kind.value.path || undefined, port: kind.value.port || undefined };
    case "tcp":
      return { kind: "tcp", port: kind.value.port || undefined };
    case "grpc":
      return { kind: "grpc", port: kind.value.port || undefined, service: kind.value.service };
    case "exec":
      return { kind: "exec", command: kind.value.command };
    case "notify":
      return { kind: "notify", fd: kind.value.fd };
    case undefined:
      return undefined;
  }
}

function actionToProto(action: ProbeAction): NonNullable<MessageInitShape<typeof proto.ProbeSchema>["kind"]> {
  switch (action.kind) {
    case "http":
      return { case: "http", value: { path: action.path ?? "", port: action.port ?? 0 } };
    case "tcp":
      return { case: "tcp", value: { port: action.port ?? 0 } };
    case "grpc":
      return { case: "grpc", value: { port: action.port ?? 0, service: action.service } };
    case "exec":
      return { case: "exec", value: { command: [...action.command] } };
    case "notify":
      return { case: "notify", value: { fd: action.fd } };
  }
}
