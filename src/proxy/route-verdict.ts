import type { EventBody } from "../domain/event.ts";
import type { Route, RouteState } from "../domain/route.ts";
import type { WantedRoute } from "../domain/route-plan.ts";

/** What is known of one service's route. */
export interface RouteKnowledge {
  /** Undefined: none is wanted. */
  readonly wanted: WantedRoute | undefined;
  /** Of what is wanted now. */
  readonly generation: number;
  /** As it was recorded last. */
  readonly recorded: Route | undefined;
  /** What the proxy has, as far as is known; 0: nothing. */
  readonly seenGeneration: number;
  /** Whether `seenGeneration` was seen in this life, with no unanswered call since. */
  readonly isCertain: boolean;
  readonly confirmTime: Date | undefined;
  /** Why the last attempt for this route failed. */
  readonly trouble: RouteTrouble | undefined;
}

export interface RouteTrouble {
  readonly reason: string;
  readonly message: string;
  /** Repeating does not help: a person is needed. */
  readonly isLasting: boolean;
}

/** What shall be recorded. */
export type Verdict =
  | { readonly kind: "none" }
  | { readonly kind: "removed"; readonly route: Route }
  | { readonly kind: "route"; readonly route: Route };

/** The proxy that the verdict is about; its trouble stands before that of the single route. */
export interface VerdictContext {
  readonly proxy: string;
  readonly trouble: RouteTrouble | undefined;
  readonly now: Date;
}

/** Every rule about the state of a route. Pure: equal knowledge gives an equal route, so only differences need recording. */
export function judge(known: RouteKnowledge, context: VerdictContext): Verdict {
  if (known.wanted !== undefined) return { kind: "route", route: wantedRoute(known, known.wanted, context) };
  const { recorded } = known;
  if (recorded === undefined) return { kind: "none" };
  const cause = context.trouble ?? known.trouble;
  const state: State = { state: "removing", reason: cause?.reason ?? "", message: cause?.message ?? "" };
  const route = withState({ ...recorded, programmedGeneration: known.seenGeneration }, recorded, state, context);
  return known.isCertain && known.seenGeneration === 0 ? { kind: "removed", route } : { kind: "route", route };
}

/** Whether anybody would notice the difference. Confirmation alone is no news. */
export function isSameRoute(one: Route, other: Route): boolean {
  return (
    one.state === other.state &&
    one.reason === other.reason &&
    one.generation === other.generation &&
    one.programmedGeneration === other.programmedGeneration &&
    one.target === other.target &&
    one.prefix === other.prefix
  );
}

/** The event of a verdict, and the same for people. */
export function tidings(verdict: Exclude<Verdict, { kind: "none" }>): { body: EventBody; message: string } {
  const { route } = verdict;
  const what = verdict.kind === "removed" ? "removed" : route.state;
  const why = route.message === "" || what === "removed" ? "" : `: ${route.message}`;
  return { body: { type: `route_${what}`, route }, message: `route ${route.prefix} ${sayings[what]}${why}` };
}

const sayings: Readonly<Record<RouteState | "removed", string>> = {
  pending: "is wanted, to be put on the proxy",
  programmed: "is in place",
  degraded: "may be out of date",
  blocked: "cannot be put in place",
  removing: "is no longer wanted",
  removed: "is off the proxy",
};

type State = Pick<Route, "state" | "reason" | "message">;

function wantedRoute(known: RouteKnowledge, wanted: WantedRoute, context: VerdictContext): Route {
  const { recorded, generation, seenGeneration, confirmTime } = known;
  const { service, serviceUid, prefix, target } = wanted;
  const form = { service, serviceUid, prefix, target, generation, programmedGeneration: seenGeneration };
  const route = { ...form, confirmTime: confirmTime ?? recorded?.confirmTime };
  return withState(route, recorded, stateOf(known, context.trouble), context);
}

function stateOf(known: RouteKnowledge, proxyTrouble: RouteTrouble | undefined): State {
  const { recorded, generation, seenGeneration, isCertain, trouble } = known;
  if (proxyTrouble?.isLasting) return troubled("blocked", proxyTrouble);
  if (trouble?.isLasting) return troubled("blocked", trouble);
  const cause = proxyTrouble ?? trouble;
  if (cause !== undefined) {
    const isInPlace = isCertain && seenGeneration === generation && proxyTrouble === undefined;
    return isInPlace ? fine("programmed") : troubled(seenGeneration > 0 ? "degraded" : "pending", cause);
  }
  if (seenGeneration !== generation) return fine("pending");
  if (isCertain) return fine("programmed");
  // Nothing was heard of the proxy yet: what was recorded before still stands.
  return recorded !== undefined && recorded.generation === generation ? recorded : fine("pending");
}

function fine(state: RouteState): State {
  return { state, reason: "", message: "" };
}

function troubled(state: RouteState, { reason, message }: RouteTrouble): State {
  return { state, reason, message };
}

function withState(
  route: Omit<Route, keyof State | "proxy" | "transitionTime">,
  recorded: Route | undefined,
  { state, reason, message }: State,
  { proxy, now }: VerdictContext,
): Route {
  const transitionTime = recorded?.state === state ? recorded.transitionTime : now;
  return { ...route, state, reason, message, proxy, transitionTime };
}
