import { create } from "@bufbuild/protobuf";
import * as proto from "../../gen/steward/v1/route_pb.ts";
import type { Route, RouteState } from "../domain/route.ts";
import { timeToProto } from "./convert-time.ts";

export function routeToProto(route: Route): proto.Route {
  return create(proto.RouteSchema, {
    service: route.service,
    serviceUid: route.serviceUid,
    prefix: route.prefix,
    target: route.target,
    state: routeStates[route.state],
    generation: BigInt(route.generation),
    programmedGeneration: BigInt(route.programmedGeneration),
    proxy: route.proxy,
    reason: route.reason,
    message: route.message,
    transitionTime: timeToProto(route.transitionTime),
    confirmTime: timeToProto(route.confirmTime),
  });
}

export const routeStates: Readonly<Record<RouteState, proto.RouteState>> = {
  pending: proto.RouteState.PENDING,
  programmed: proto.RouteState.PROGRAMMED,
  degraded: proto.RouteState.DEGRADED,
  blocked: proto.RouteState.BLOCKED,
  removing: proto.RouteState.REMOVING,
};
