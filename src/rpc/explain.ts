import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import {
  CauseKind as CauseKinds,
  type ExplainResponseSchema,
  ProbeRole as ProbeRoles,
} from "../../gen/steward/v1/supervisor_pb.ts";
import { serviceNotFound } from "../domain/errors.ts";
import { type CauseKind, explain, type ProbeResult } from "../domain/explain.ts";
import { may, type Principal } from "../domain/principal.ts";
import type { ProbeRole } from "../domain/probe.ts";
import { isManaged, type ManagedService, type Service } from "../domain/service.ts";
import { nameKey } from "../domain/service-name.ts";
import { serviceFor } from "./convert-service.ts";
import { timeToProto } from "./convert-time.ts";

/** What an explanation needs of the registry. */
export interface Registered {
  /** A service and those it depends on, directly or through others, as far as they are there. */
  withDependencies(name: string): Promise<{ readonly services: readonly Service[]; readonly revision: bigint }>;
}

/** What an explanation needs of the supervisor. */
export interface Observed {
  /** The last answers of a service's probes, newest first. */
  probeResults(service: Service): readonly ProbeResult[];
  /** Starts that wait for their turn. */
  readonly queuedStarts: number;
  /** The last lines that a service wrote to its standard error, or where that is empty to its standard output. */
  lastLines(service: ManagedService, count: number): Promise<readonly string[]>;
}

export interface ExplainingOptions {
  readonly registry: Registered;
  readonly observed: Observed;
  /** Whether routes are kept at all. */
  readonly isRouted: boolean;
}

const shownLines = 20;

/** Answers why a service is as it is. */
export class Explaining {
  readonly #options: ExplainingOptions;

  constructor(options: ExplainingOptions) {
    this.#options = options;
  }

  /** Throws not_found. Services that the principal may not read are causes without their detail. */
  async explain(name: string, principal: Principal): Promise<MessageInitShape<typeof ExplainResponseSchema>> {
    const { registry, observed, isRouted } = this.#options;
    const { services, revision } = await registry.withDependencies(name);
    const byKey = new Map(services.map((service) => [nameKey(service.name), service]));
    const service = byKey.get(nameKey(name));
    if (service === undefined || service.name !== name) throw serviceNotFound(name);
    const find = (other: string) => {
      const found = byKey.get(nameKey(other));
      return found !== undefined && may(principal, "read:services", found.name) ? found : undefined;
    };
    const probeResults = observed.probeResults(service);
    const { queuedStarts } = observed;
    const { well, summary, causes } = explain(service, { find, isRouted, queuedStarts, probeResults });
    const showsLines = !well && isManaged(service) && may(principal, "read:services:logs", name);
    return {
      well,
      summary,
      causes: causes.map(({ kind, time, ...cause }) => ({ ...cause, kind: causeKinds[kind], time: timeToProto(time) })),
      lastLines: showsLines ? [...(await observed.lastLines(service, shownLines))] : [],
      probeResults: probeResults.map(({ role, time, durationMs, ...result }) => ({
        ...result,
        role: probeRoles[role],
        time: timeToProto(time),
        duration: durationFromMs(durationMs),
      })),
      service: serviceFor(principal, service),
      revision,
    };
  }
}

export const causeKinds: Readonly<Record<CauseKind, CauseKinds>> = {
  wish: CauseKinds.WISH,
  state: CauseKinds.STATE,
  dependency: CauseKinds.DEPENDENCY,
  back_off: CauseKinds.BACK_OFF,
  last_exit: CauseKinds.LAST_EXIT,
  probe: CauseKinds.PROBE,
  policy: CauseKinds.POLICY,
  stop_failed: CauseKinds.STOP_FAILED,
  condition: CauseKinds.CONDITION,
  route: CauseKinds.ROUTE,
  proxy: CauseKinds.PROXY,
  restart_budget: CauseKinds.RESTART_BUDGET,
};

export const probeRoles: Readonly<Record<ProbeRole, ProbeRoles>> = {
  startup: ProbeRoles.STARTUP,
  readiness: ProbeRoles.READINESS,
  liveness: ProbeRoles.LIVENESS,
  external: ProbeRoles.EXTERNAL,
};
