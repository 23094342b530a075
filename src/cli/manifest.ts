import { readFileSync } from "node:fs";
import { fromJson, type JsonObject, type JsonValue } from "@bufbuild/protobuf";
import { parse } from "yaml";
import { type Service, ServiceSchema } from "../../gen/steward/v1/service_pb.ts";
import { UsageError } from "./failure.ts";

/** What `steward apply` reads: a set of services. */
export interface Manifest {
  readonly setName: string;
  readonly services: readonly Service[];
}

/** Fields of the process: a flat service may give them beside the others, as JupyterHub's list of services does. */
const processFields = new Set([
  "command",
  "environment",
  "cwd",
  "user",
  "restart_policy",
  "stop_grace",
  "readiness_timeout",
  "min_ready",
  "stop_signal",
  "drain",
  "limits",
  "startup_probe",
  "readiness_probe",
  "liveness_probe",
  "depends_on",
  "update_strategy",
]);

/** Reads a YAML or JSON file, `-` for standard input: `services:` with one entry a service, and optionally `set: NAME`. */
export function readManifest(path: string): Manifest {
  return parseManifest(readText(path), path === "-" ? "standard input" : path);
}

/**
 * A service is either as `get -o yaml` prints it (`name` and `spec`), or flat: the fields of the spec beside the name, those of the process
 * too. A flat service with a command is managed, one without is external; a command may be one word, then it is the whole command.
 */
export function parseManifest(text: string, source: string): Manifest {
  const document = parseText(text, source);
  const list = Array.isArray(document) ? document : isObject(document) ? document["services"] : undefined;
  if (!Array.isArray(list)) throw new UsageError(`${source}: expected a list of services under the key "services"`);
  const set = isObject(document) ? document["set"] : undefined;
  if (set !== undefined && typeof set !== "string") throw new UsageError(`${source}: set is a name`);
  return {
    setName: set ?? "",
    services: list.map((entry, index) => parseService(entry, `${source}: services[${index}]`)),
  };
}

function parseService(entry: JsonValue, where: string): Service {
  if (!isObject(entry)) throw new UsageError(`${where}: expected a service, such as {name: …, command: […]}`);
  const { name, spec } = entry;
  if (typeof name !== "string") throw new UsageError(`${where}.name: expected the service's name`);
  try {
    return fromJson(ServiceSchema, { name, spec: isObject(spec) ? spec : nest(entry) });
  } catch (error) {
    throw new UsageError(`${where} (${name}): ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Turns the flat form into the nested one; names may be written as the proto does or in camel case. */
function nest(entry: JsonObject): JsonObject {
  const spec: JsonObject = {};
  const process: JsonObject = {};
  for (const [key, value] of Object.entries(entry)) {
    const field = key.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    if (field === "name") continue;
    (processFields.has(field) ? process : spec)[field] = value;
  }
  if (typeof process["command"] === "string") process["command"] = [process["command"]];
  const { probe, ...rest } = spec;
  if (Object.keys(process).length > 0) return { ...spec, managed: process };
  return { ...rest, external: probe === undefined ? {} : { probe } };
}

function readText(path: string): string {
  try {
    return readFileSync(path === "-" ? 0 : path, "utf8");
  } catch (error) {
    throw new UsageError(`cannot read ${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function parseText(text: string, source: string): JsonValue {
  try {
    return parse(text) as JsonValue;
  } catch (error) {
    throw new UsageError(`${source}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
