import type { Clock } from "../domain/clock.ts";
import type { Waiting } from "../domain/dependency.ts";
import type { EventBody } from "../domain/event.ts";
import type { ManagedService } from "../domain/service.ts";
import type { Instance, ServiceStatus } from "../domain/status.ts";
import type { Token } from "../domain/token.ts";
import type { FailPoint } from "./fail-point.ts";
import type { Host } from "./host.ts";
import type { Launcher } from "./launcher.ts";
import type { Leftovers } from "./leftovers.ts";
import type { RestartBudget } from "./restart-budget.ts";

/** Something that a keeper saw or did, with the state that follows from it. Written together or not at all. */
export interface Fact {
  readonly serviceUid: string;
  readonly status?: ServiceStatus;
  readonly instances?: readonly Instance[];
  readonly instanceToken?: InstanceToken;
  readonly events: readonly { readonly body: EventBody; readonly message: string }[];
  /** Only if all of this still is so. */
  readonly guard?: { readonly generation?: number; readonly wish?: "running"; readonly version?: number };
}

export type InstanceToken = Token & { readonly digest: Buffer; readonly instanceId: string };

/** What a runner needs of the others. */
export interface RunnerTools {
  /** The name of this node. */
  readonly node: string;
  readonly clock: Clock;
  /** 0 to 1. */
  readonly random: () => number;
  /** Resolves once the fact is durable; waits for a database that is away. */
  readonly facts: { record(fact: Fact): Promise<bigint> };
  readonly tokens: {
    forInstance(
      service: ManagedService,
      instanceId: string,
    ): Promise<{ secret: string; token: InstanceToken | undefined }>;
  };
  readonly host: Host;
  readonly launcher: Launcher;
  readonly leftovers: Leftovers;
  readonly budget: RestartBudget;
  /** How long a process goes on after its route is out. */
  readonly drainMs: number;
  /** Whether routes are kept at all: without a proxy nothing waits for one. */
  readonly routes: boolean;
  /** Which dependencies of a service are not as they must be for a start. */
  readonly unmet: (service: ManagedService) => readonly Waiting[];
  /** Resolves when none of those which depend on a service and are to end for good runs any more. */
  readonly dependentsGone: (service: ManagedService) => Promise<void>;
  readonly onFailure: (error: unknown, service: string) => void;
  /** Told of each fail-point that is passed; a test may end the server there. */
  readonly reach: (point: FailPoint) => void;
}
