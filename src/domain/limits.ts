/** What a process may use; undefined: what Steward itself may. */
export interface Limits {
  readonly memoryBytes?: number | undefined;
  readonly cpuMillis?: number | undefined;
  readonly processes?: number | undefined;
  readonly openFiles?: number | undefined;
  readonly addressSpaceBytes?: number | undefined;
  readonly coreBytes?: number | undefined;
  readonly nice?: number | undefined;
}

/** Their names in the proto, for violations and conditions. */
export const limitFields: Readonly<Record<keyof Limits, string>> = {
  memoryBytes: "memory_bytes",
  cpuMillis: "cpu_millis",
  processes: "processes",
  openFiles: "open_files",
  addressSpaceBytes: "address_space_bytes",
  coreBytes: "core_bytes",
  nice: "nice",
};
