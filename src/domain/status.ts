import type { Waiting } from "./dependency.ts";

/** What is so of a service's process. One `kind` for the state; everything else is detail that any state may carry. */
export interface ServiceStatus {
  readonly state: ServiceState;
  readonly ready: boolean;
  /** One UPPER_SNAKE word for programs; empty: none. */
  readonly reason: string;
  /** The same for people. */
  readonly message: string;
  /** The generation that the running or last process was started for; 0 before the first. */
  readonly observedGeneration: number;
  readonly instanceId: string | undefined;
  readonly pid: number | undefined;
  readonly startTime: Date | undefined;
  readonly readyTime: Date | undefined;
  readonly lastExit: InstanceExit | undefined;
  /** Restarts in a row since a client last started, restarted or changed it. */
  readonly restarts: number;
  /** The failures that back-off counts: raised by each unexpected exit, reset after a long enough readiness. */
  readonly failures: number;
  /** When the last unexpected exits happened, newest last, as many as the crash-loop rule looks at; that many mean that it is in a crash loop. */
  readonly recentFailures: readonly Date[];
  readonly nextStartTime: Date | undefined;
  /** The url with the picked port. */
  readonly url: string | undefined;
  /** Whether its route shall be in place: from the first readiness until a stop begins or nothing is going to run. Crashes and restarts leave it in place. Always true for an external service with a url. */
  readonly published: boolean;
  readonly transitionTime: Date;
  /** When `ready` last changed. */
  readonly readyTransitionTime: Date | undefined;
  readonly conditions: readonly Condition[];
  /** What holds back the next start. */
  readonly waitingFor: readonly Waiting[];
  /** The newer instance of a rolling update, on its way to take over. */
  readonly replacement: SideInstance | undefined;
  /** The instance that was taken over from, until it has ended. */
  readonly retiring: SideInstance | undefined;
  /** The generation whose rolling update failed; 0: none. */
  readonly failedGeneration: number;
  /** The resets that were carried out. */
  readonly observedResets: number;
}

/** Something that is not as it should be and does not show in the state. At most one of each type. */
export interface Condition {
  readonly type: ConditionType;
  readonly message: string;
  readonly since: Date;
}

export type ConditionType = "limits_not_enforced" | "update_failed" | "output_at_risk";

/** An instance beside the current one. */
export interface SideInstance {
  readonly instanceId: string;
  readonly pid: number | undefined;
  readonly generation: number;
  readonly url: string | undefined;
  readonly startTime: Date;
  /** Whether it was asked to end. */
  readonly isStopping: boolean;
  /** Why a replacement was given up; empty: it was not, or a newer one is wanted. */
  readonly failure: string;
}

/** The status of a service before anything happened to it. */
export const blankStatus: Omit<ServiceStatus, "state" | "transitionTime"> = {
  ready: false,
  reason: "",
  message: "",
  observedGeneration: 0,
  instanceId: undefined,
  pid: undefined,
  startTime: undefined,
  readyTime: undefined,
  lastExit: undefined,
  restarts: 0,
  failures: 0,
  recentFailures: [],
  nextStartTime: undefined,
  url: undefined,
  published: false,
  readyTransitionTime: undefined,
  conditions: [],
  waitingFor: [],
  replacement: undefined,
  retiring: undefined,
  failedGeneration: 0,
  observedResets: 0,
};

export type ServiceState =
  | "pending"
  | "starting"
  | "running"
  | "backing_off"
  | "crash_loop"
  | "stopping"
  | "stopped"
  | "completed"
  | "failed"
  | "stop_failed"
  | "external";

/** States in which a process may be alive. */
export const liveStates: ReadonlySet<ServiceState> = new Set(["starting", "running", "stopping", "stop_failed"]);

/** States in which nothing runs and nothing is going to without a new wish or generation. */
export const endedStates: ReadonlySet<ServiceState> = new Set(["stopped", "completed", "failed"]);

/** One start of a managed service's command, as stored: its intent is durable before its command runs. */
export interface Instance {
  readonly id: string;
  readonly service: string;
  readonly serviceUid: string;
  readonly generation: number;
  readonly node: string;
  readonly role: InstanceRole;
  readonly state: InstanceState;
  /** Identity of the shim, the leader of its session; undefined until it waits at the gate. */
  readonly process: ProcessIdentity | undefined;
  /** The pid of the command. */
  readonly pid: number | undefined;
  readonly createTime: Date;
  readonly startTime: Date | undefined;
  readonly readyTime: Date | undefined;
  readonly exit: InstanceExit | undefined;
}

export type InstanceState = "created" | "running" | "stopping" | "ended";

/** Its part in a rolling update; of each there is at most one that may be alive. */
export type InstanceRole = "current" | "replacement" | "retiring";

/** What tells a process from every other that ever had its pid: only ever compared, never computed with. */
export interface ProcessIdentity {
  readonly bootId: string;
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, as text. */
  readonly startTime: string;
}

/** How a process ended. A code is never invented: `lost` says that nothing recorded one. */
export interface InstanceExit {
  readonly reason: "exited" | "signaled" | "spawn_failed" | "lost" | "oom_killed";
  readonly code: number | undefined;
  readonly signal: string | undefined;
  readonly message: string;
  readonly time: Date;
  /** Whether Steward had asked for this end. */
  readonly requested: boolean;
}
