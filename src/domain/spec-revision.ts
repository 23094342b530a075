import type { ServiceSpec } from "./service.ts";

/** A spec that a service had. */
export interface SpecRevision {
  /** Of the transaction that gave it this spec. */
  readonly revision: bigint;
  readonly time: Date;
  /** `operator`, a service's name, or `steward`. */
  readonly actor: string;
  /** In which it differs from the spec before; none of the first. */
  readonly paths: readonly string[];
  readonly spec: ServiceSpec;
}
