import { create } from "@bufbuild/protobuf";
import * as proto from "../../gen/steward/v1/service_pb.ts";
import type { Limits } from "../domain/limits.ts";

export function limitsFromProto(limits: proto.Limits): Limits {
  return {
    memoryBytes: numberOf(limits.memoryBytes),
    cpuMillis: limits.cpuMillis,
    processes: limits.processes,
    openFiles: limits.openFiles,
    addressSpaceBytes: numberOf(limits.addressSpaceBytes),
    coreBytes: numberOf(limits.coreBytes),
    nice: limits.nice,
  };
}

/** Absent where nothing is limited. */
export function limitsToProto(limits: Limits): proto.Limits | undefined {
  if (Object.values(limits).every((value) => value === undefined)) return undefined;
  return create(proto.LimitsSchema, {
    memoryBytes: bigintOf(limits.memoryBytes),
    cpuMillis: limits.cpuMillis,
    processes: limits.processes,
    openFiles: limits.openFiles,
    addressSpaceBytes: bigintOf(limits.addressSpaceBytes),
    coreBytes: bigintOf(limits.coreBytes),
    nice: limits.nice,
  });
}

function numberOf(value: bigint | undefined): number | undefined {
  return value === undefined ? undefined : Number(value);
}

function bigintOf(value: number | undefined): bigint | undefined {
  return value === undefined ? undefined : BigInt(value);
}
