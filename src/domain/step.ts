import type { Waiting } from "./dependency.ts";
import type { EventBody } from "./event.ts";
import type { ManagedSpec, Wish } from "./service.ts";
import type { InstanceExit, ServiceStatus } from "./status.ts";

/** What happens to a managed service. */
export type Input =
  /** Look again: the wish may have changed, or a start may happen now. */
  | { readonly kind: "look" }
  /** A delay that was asked for with `wake` is over, whatever the wall clock says meanwhile. */
  | { readonly kind: "due" }
  /** The intent to start an instance is about to be recorded. */
  | {
      readonly kind: "launching";
      readonly instanceId: string;
      readonly url: string | undefined;
      /** Which limits of the spec will have no effect, for people; empty: none. */
      readonly unenforced: string;
    }
  /** Its command runs. */
  | { readonly kind: "launched"; readonly instanceId: string; readonly pid: number | undefined }
  /** It outlived the server that started it. */
  | { readonly kind: "adopted"; readonly instanceId: string; readonly pid: number | undefined }
  | { readonly kind: "ready"; readonly instanceId: string }
  | { readonly kind: "unready"; readonly instanceId: string; readonly message: string }
  /** It did not become ready in time. */
  | { readonly kind: "readiness_missed"; readonly instanceId: string; readonly message: string }
  /** Its liveness probe gave it up. */
  | { readonly kind: "liveness_failed"; readonly instanceId: string; readonly message: string }
  /** It ended and nothing is left of it. */
  | { readonly kind: "exited"; readonly instanceId: string; readonly exit: Ending }
  /** The server ended between the intent and the start: nothing of the service ran, so it is no failure of the service. */
  | { readonly kind: "never_ran"; readonly instanceId: string; readonly exit: Ending }
  /** Something of it could not be ended. */
  | { readonly kind: "stop_failed"; readonly instanceId: string; readonly survivors: readonly number[] }
  /** What it writes can be kept (empty), or not, and why. */
  | { readonly kind: "output"; readonly risk: string };

/** How an instance ended; whether that was asked for, the state tells. */
export type Ending = Omit<InstanceExit, "requested">;

/** What is wanted, read anew at each step: commands are never queued, the newest wish is the one that counts. */
export interface Want {
  readonly wish: Wish;
  readonly generation: number;
  readonly resets: number;
  readonly spec: ManagedSpec;
  /** Which of its dependencies are not as they must be for a start. */
  readonly waitingFor: readonly Waiting[];
}

/** Time and chance. */
export interface Moment {
  readonly now: Date;
  /** 0 to 1, for the jitter. */
  readonly random: number;
}

export type Effect =
  /** Start an instance; the intent comes back as `launching`. Asked for again at each look until then. */
  | { readonly kind: "launch" }
  /** End an instance and everything it started; its end comes back as `exited` or `stop_failed`. */
  | { readonly kind: "stop"; readonly instanceId: string; readonly routeFirst: boolean }
  /** The same, once the route leads to the current instance and the requests under way had their time. */
  | { readonly kind: "retire"; readonly instanceId: string }
  /** Say `due` then; the newest one counts. */
  | { readonly kind: "wake"; readonly at: Date };

export interface Step {
  readonly status: ServiceStatus;
  readonly events: readonly { readonly body: EventBody; readonly message: string }[];
  readonly effects: readonly Effect[];
}

export function same(status: ServiceStatus): Step {
  return { status, events: [], effects: [] };
}

export function act(status: ServiceStatus, ...effects: Effect[]): Step {
  return { status, events: [], effects };
}

/** The event of an instance; without an id of the current one. */
export function told(
  type: "instance_ready" | "instance_unready" | "instance_stopping" | "instance_promoted",
  { instanceId = "", pid }: { readonly instanceId: string | undefined; readonly pid: number | undefined },
  message: string,
): Step["events"][number] {
  return { body: { type, instanceId, pid }, message };
}

/** How a process ended, in words. */
export function describeExit(exit: Ending): string {
  switch (exit.reason) {
    case "exited":
      return `exited with code ${exit.code ?? "?"}`;
    case "signaled":
      return `ended by ${exit.signal ?? "a signal"}`;
    case "spawn_failed":
      return `could not be started: ${exit.message}`;
    case "lost":
      return `is gone: ${exit.message}`;
    case "oom_killed":
      return "was killed by the kernel: out of memory";
  }
}

/** The status with a condition of this type that says this; an empty message takes it away. */
export function withCondition(
  status: ServiceStatus,
  type: ServiceStatus["conditions"][number]["type"],
  message: string,
  now: Date,
): ServiceStatus {
  const known = status.conditions.find((condition) => condition.type === type);
  if ((known?.message ?? "") === message) return status;
  const others = status.conditions.filter((condition) => condition !== known);
  const conditions = message === "" ? others : [...others, { type, message, since: known?.since ?? now }];
  return { ...status, conditions };
}

/** What came up and what is over among the conditions, as events. */
export function conditionEvents(before: ServiceStatus, after: ServiceStatus): Step["events"] {
  const raised = after.conditions.filter(({ type }) => !before.conditions.some((other) => other.type === type));
  const cleared = before.conditions.filter(({ type }) => !after.conditions.some((other) => other.type === type));
  return [
    ...raised.map(
      (condition) => ({ body: { type: "condition_raised", condition }, message: condition.message }) as const,
    ),
    ...cleared.map(
      (condition) =>
        ({ body: { type: "condition_cleared", condition }, message: `over: ${condition.message}` }) as const,
    ),
  ];
}
