import type { Instance, InstanceRole, ServiceStatus } from "../domain/status.ts";
import type { Input } from "../domain/step.ts";

/** The rows of a service's instances that an input changes, in an order in which no two are alive in one role. */
export function rowsAfter(
  input: Input,
  status: ServiceStatus,
  instances: ReadonlyMap<string, Instance>,
  now: Date,
): Instance[] {
  const changed: Instance[] = [];
  for (const instance of instances.values()) {
    const next = after(instance, input, status, now);
    if (next !== instance) changed.push(next);
  }
  return changed.sort((one, other) => order(one) - order(other));
}

function after(instance: Instance, input: Input, status: ServiceStatus, now: Date): Instance {
  const role = roleOf(instance, status);
  const state = stateOf(instance, status);
  const moved = role === instance.role && state === instance.state ? instance : { ...instance, role, state };
  if (!("instanceId" in input) || input.instanceId !== instance.id) return moved;
  switch (input.kind) {
    case "exited":
    case "never_ran": {
      const exit = { ...input.exit, requested: instance.state === "stopping" };
      return { ...moved, role: instance.role, state: "ended", pid: undefined, exit };
    }
    case "launched":
    case "adopted":
      return {
        ...moved,
        state: moved.state === "created" ? "running" : moved.state,
        pid: input.pid,
        startTime: instance.startTime ?? now,
      };
    case "ready":
      return { ...moved, readyTime: instance.readyTime ?? now };
    case "launching":
    case "unready":
    case "readiness_missed":
    case "liveness_failed":
    case "stop_failed":
      return moved;
  }
}

/** Those which make room come first. */
function order({ state, role }: Instance): number {
  if (state === "ended") return 0;
  return 1 + ["retiring", "current", "replacement"].indexOf(role);
}

function roleOf({ id, role }: Instance, { instanceId, replacement, retiring }: ServiceStatus): InstanceRole {
  if (id === instanceId) return "current";
  if (id === replacement?.instanceId) return "replacement";
  return id === retiring?.instanceId ? "retiring" : role;
}

/** Until its command was let go a row stays `created`: that tells the next server where to look. */
function stateOf({ id, state }: Instance, status: ServiceStatus): Instance["state"] {
  const side = [status.replacement, status.retiring].find((each) => each?.instanceId === id);
  if (side !== undefined) return side.isStopping || side === status.retiring ? "stopping" : runningOr(state);
  return status.state === "stopping" || status.state === "stop_failed" ? "stopping" : runningOr(state);
}

function runningOr(state: Instance["state"]): Instance["state"] {
  return state === "stopping" ? "running" : state;
}
