import type { DescEnum } from "@bufbuild/protobuf";
import type { EventType } from "../../gen/steward/v1/event_pb.ts";
import { EventTypeSchema } from "../../gen/steward/v1/event_pb.ts";
import type { InstanceExit } from "../../gen/steward/v1/instance_pb.ts";
import { InstanceExitReason } from "../../gen/steward/v1/instance_pb.ts";
import type { Route } from "../../gen/steward/v1/route_pb.ts";
import { RouteStateSchema } from "../../gen/steward/v1/route_pb.ts";
import type { Service } from "../../gen/steward/v1/service_pb.ts";
import {
  type ConditionType,
  ConditionTypeSchema,
  ServiceState,
  ServiceStateSchema,
} from "../../gen/steward/v1/service_pb.ts";
import type { CauseKind, ProbeRole } from "../../gen/steward/v1/supervisor_pb.ts";
import { CauseKindSchema, ProbeRoleSchema } from "../../gen/steward/v1/supervisor_pb.ts";
import type { TokenState } from "../../gen/steward/v1/token_pb.ts";
import { TokenStateSchema } from "../../gen/steward/v1/token_pb.ts";
import { paint, type Screen } from "./print.ts";

/** The name of an enum value without its prefix: `RUNNING`. */
function enumWord(schema: DescEnum, value: number): string {
  const name = schema.value[value]?.name ?? String(value);
  const prefix = enumPrefix(schema);
  return name.startsWith(prefix) ? name.slice(prefix.length) : name;
}

/** What the values of an enum begin with: `SERVICE_STATE_`. */
export function enumPrefix(schema: DescEnum): string {
  return `${schema.name.replaceAll(/(?<!^)([A-Z])/g, "_$1").toUpperCase()}_`;
}

export function stateWord(screen: Screen, service: Service): string {
  const state = service.status?.state ?? ServiceState.UNSPECIFIED;
  const word = enumWord(ServiceStateSchema, state);
  switch (state) {
    case ServiceState.RUNNING:
      return paint(screen, service.status?.ready === true ? "green" : "yellow", word);
    case ServiceState.CRASH_LOOP:
    case ServiceState.FAILED:
    case ServiceState.STOP_FAILED:
      return paint(screen, "red", word);
    case ServiceState.STARTING:
    case ServiceState.STOPPING:
    case ServiceState.BACKING_OFF:
      return paint(screen, "yellow", word);
    default:
      return word;
  }
}

export function routeWord(route: Route | undefined): string {
  return route === undefined ? "-" : enumWord(RouteStateSchema, route.state);
}

export function eventWord(type: EventType): string {
  return enumWord(EventTypeSchema, type).toLowerCase();
}

/** `back off`: as a person says it. */
export function causeWord(kind: CauseKind): string {
  return enumWord(CauseKindSchema, kind).toLowerCase().replaceAll("_", " ");
}

export function probeRoleWord(role: ProbeRole): string {
  return enumWord(ProbeRoleSchema, role).toLowerCase();
}

export function conditionWord(type: ConditionType): string {
  return enumWord(ConditionTypeSchema, type);
}

export function tokenWord(state: TokenState): string {
  return enumWord(TokenStateSchema, state);
}

export function exitWord(exit: InstanceExit | undefined): string {
  if (exit === undefined) return "-";
  switch (exit.reason) {
    case InstanceExitReason.EXITED:
      return `code ${exit.code ?? "?"}`;
    case InstanceExitReason.SIGNALED:
      return exit.signal;
    case InstanceExitReason.SPAWN_FAILED:
      return `could not start: ${exit.message}`;
    case InstanceExitReason.OOM_KILLED:
      return "out of memory";
    default:
      return "unknown";
  }
}

/** A word of a command as one would type it in a shell. */
export function quoteWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
