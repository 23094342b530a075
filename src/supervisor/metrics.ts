import { Gauge, type Registry } from "prom-client";
import type { ServiceState } from "../domain/status.ts";

/** What the metrics need of the supervisor. */
export interface SupervisorFigures {
  states(): readonly ServiceState[];
  readonly queuedStarts: number;
}

/** Tells Prometheus of the services of this node. */
export function registerSupervisorMetrics(registry: Registry, supervisor: SupervisorFigures): void {
  new Gauge({
    name: "steward_services",
    help: "Managed services of this node, by state.",
    labelNames: ["state"],
    registers: [registry],
    collect() {
      for (const state of states) this.set({ state }, 0);
      for (const state of supervisor.states()) this.inc({ state });
    },
  });
  new Gauge({
    name: "steward_starts_queued",
    help: "Starts of processes that wait for their turn (--start-rate).",
    registers: [registry],
    collect() {
      this.set(supervisor.queuedStarts);
    },
  });
}

const managed: Readonly<Record<Exclude<ServiceState, "external">, true>> = {
  pending: true,
  starting: true,
  running: true,
  backing_off: true,
  crash_loop: true,
  stopping: true,
  stopped: true,
  completed: true,
  failed: true,
  stop_failed: true,
};
const states = Object.keys(managed);
