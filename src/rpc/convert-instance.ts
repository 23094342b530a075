import { create } from "@bufbuild/protobuf";
import * as proto from "../../gen/steward/v1/instance_pb.ts";
import type { Instance, InstanceExit, InstanceRole, InstanceState } from "../domain/status.ts";
import { timeToProto } from "./convert-time.ts";

export function instanceToProto(instance: Instance): proto.Instance {
  return create(proto.InstanceSchema, {
    id: instance.id,
    service: instance.service,
    serviceUid: instance.serviceUid,
    generation: BigInt(instance.generation),
    node: instance.node,
    // A pid outlives its process only to be given to another one: nobody shall take it for ours.
    pid: instance.state === "ended" ? 0 : (instance.pid ?? 0),
    state: instanceStates[instance.state],
    role: instanceRoles[instance.role],
    createTime: timeToProto(instance.createTime),
    startTime: timeToProto(instance.startTime),
    readyTime: timeToProto(instance.readyTime),
    exit: instance.exit === undefined ? undefined : exitToProto(instance.exit),
  });
}

export function exitToProto(exit: InstanceExit): proto.InstanceExit {
  return create(proto.InstanceExitSchema, {
    reason: exitReasons[exit.reason],
    code: exit.code,
    signal: exit.signal ?? "",
    message: exit.message,
    time: timeToProto(exit.time),
    requested: exit.requested,
  });
}

export const instanceStates: Readonly<Record<InstanceState, proto.InstanceState>> = {
  created: proto.InstanceState.CREATED,
  running: proto.InstanceState.RUNNING,
  stopping: proto.InstanceState.STOPPING,
  ended: proto.InstanceState.ENDED,
};

export const instanceRoles: Readonly<Record<InstanceRole, proto.InstanceRole>> = {
  current: proto.InstanceRole.CURRENT,
  replacement: proto.InstanceRole.REPLACEMENT,
  retiring: proto.InstanceRole.RETIRING,
};

export const exitReasons: Readonly<Record<InstanceExit["reason"], proto.InstanceExitReason>> = {
  exited: proto.InstanceExitReason.EXITED,
  signaled: proto.InstanceExitReason.SIGNALED,
  spawn_failed: proto.InstanceExitReason.SPAWN_FAILED,
  lost: proto.InstanceExitReason.LOST,
  oom_killed: proto.InstanceExitReason.OOM_KILLED,
};
