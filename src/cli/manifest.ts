import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { fromJson, type JsonObject, type JsonValue } from "@bufbuild/protobuf";
import { type Service, ServiceSchema } from "../../gen/steward/v1/service_pb.ts";
import { UsageError } from "./failure.ts";
import { type Path, PlacedText } from "./manifest-text.ts";
import { FieldError, isObject, toMessageJson } from "./message-json.ts";

/** What `steward apply` reads: a set of services. */
export interface Manifest {
  readonly setName: string;
  readonly services: readonly Service[];
  /** Where a field of the request, such as `services[0].spec.url`, stands: `FILE:LINE`. */
  placeOf(field: string): string;
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
export async function readManifest(path: string): Promise<Manifest> {
  return parseManifest(await readText(path), path === "-" ? "standard input" : path);
}

/**
 * A service is either as `get -o yaml` prints it (`name` and `spec`), or flat: the fields of the spec beside the name, those of the process
 * too. A flat service with a command is managed, one without is external; a command may be one word, then it is the whole command.
 */
export function parseManifest(content: string, source: string): Manifest {
  const placed = new PlacedText(content, source);
  const { setName, entries } = entriesOf(placed);
  return {
    setName,
    services: entries.map(({ entry, path }, index) => parseService(entry, `services[${index}]`, path, placed)),
    placeOf(field) {
      const [, index, below = ""] = /^services\[(\d+)\](.*)$/.exec(field) ?? [];
      if (index === undefined) return placed.placeOf(field === "set_name" ? ["set"] : []);
      return placed.placeOf([...(entries[Number(index)]?.path ?? []), ...segmentsOf(below)]);
    },
  };
}

interface Entry {
  readonly entry: JsonValue;
  readonly path: Path;
}

/** A list of services, one under `services:`, or one service as `get NAME -o yaml` prints it. */
function entriesOf(placed: PlacedText): { setName: string; entries: readonly Entry[] } {
  const { root } = placed;
  if (Array.isArray(root)) return { setName: "", entries: root.map((entry, index) => ({ entry, path: [index] })) };
  if (isObject(root) && "name" in root && "spec" in root) return { setName: "", entries: [{ entry: root, path: [] }] };
  const list = isObject(root) ? root["services"] : undefined;
  if (!isObject(root) || !Array.isArray(list))
    throw new UsageError(`${placed.source}: expected a list of services under the key "services"`);
  const unknown = Object.keys(root).find((key) => key !== "set" && key !== "services");
  if (unknown !== undefined)
    throw new UsageError(`${placed.placeOf([unknown])}: ${unknown}: there is no such field beside set and services`);
  const setName = root["set"] ?? "";
  if (typeof setName !== "string") throw new UsageError(`${placed.placeOf(["set"])}: set: expected a name`);
  return { setName, entries: list.map((entry, index) => ({ entry, path: ["services", index] })) };
}

function parseService(entry: JsonValue, where: string, path: Path, placed: PlacedText): Service {
  const refuse = (below: Path, what: string) => new UsageError(`${placed.placeOf([...path, ...below])}: ${what}`);
  if (!isObject(entry)) throw refuse([], `${where}: expected a service, such as {name: …, command: […]}`);
  const { name, spec } = entry;
  if (typeof name !== "string") throw refuse(["name"], `${where}.name: expected the service's name`);
  try {
    const service = toMessageJson(ServiceSchema, isObject(spec) ? entry : { name, spec: nest(entry) });
    return fromJson(ServiceSchema, { name, spec: service["spec"] ?? {} });
  } catch (error) {
    if (!(error instanceof FieldError)) throw error;
    const written = isObject(spec) ? error.path : error.path.filter((part) => part !== "spec" && part !== "managed");
    throw refuse(error.path, `${where} (${name}): ${written.join(".")}: ${error.message}`);
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

/** `.spec.managed.environment["A"]` in its parts. */
function segmentsOf(field: string): Path {
  return [...field.matchAll(/\["([^"]*)"\]|\[(\d+)\]|([^.[\]]+)/g)].map(([, key, index, name]) =>
    index === undefined ? (key ?? name ?? "") : Number(index),
  );
}

async function readText(path: string): Promise<string> {
  try {
    return path === "-" ? await text(process.stdin) : await readFile(path, "utf8");
  } catch (error) {
    throw new UsageError(
      `cannot read ${path === "-" ? "standard input" : path}: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}
