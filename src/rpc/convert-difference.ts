import { fromJson, type JsonValue, type MessageInitShape, toJson } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import { ServiceSpecSchema } from "../../gen/steward/v1/service_pb.ts";
import type { FieldDifferenceSchema } from "../../gen/steward/v1/service_registry_pb.ts";
import { may, type Principal } from "../domain/principal.ts";
import type { Service } from "../domain/service.ts";
import { specToProto } from "./convert-spec.ts";

/** What an update did to a service. */
export interface ServiceDifference {
  /** As it was; undefined if nothing was updated. */
  readonly before?: Service;
  readonly service: Service;
  /** The paths that differ, in which the api_token stands too. */
  readonly paths: readonly string[];
}

type Difference = MessageInitShape<typeof FieldDifferenceSchema>;

/** What differs, field by field, as this principal may see it: the api_token never, the environment only with its scope. */
export function differencesFor(principal: Principal, { before, service, paths }: ServiceDifference): Difference[] {
  if (before === undefined) return [];
  const mayRead = may(principal, "read:services:environment", service.name);
  const differences = [
    ...compare("spec", specJson(before), specJson(service)).filter(({ path }) => path !== "spec.api_token_set"),
    ...compare("set_name", before.setName, service.setName),
  ];
  const isEnvironment = ({ path = "" }: Difference) => /^spec\.managed\.environment\b/.test(path);
  return [
    ...differences.filter((each) => mayRead || !isEnvironment(each)),
    ...(!mayRead && differences.some(isEnvironment) ? [{ path: "spec.managed.environment", hidden: true }] : []),
    ...(paths.includes("spec.api_token") ? [{ path: "spec.api_token", hidden: true }] : []),
  ];
}

function specJson({ spec }: Service): JsonValue {
  const message = specToProto(spec, { environment: true });
  return toJson(ServiceSpecSchema, message, { useProtoFieldName: true, alwaysEmitImplicit: true });
}

/** Goes down to the members that differ; lists and single values are compared whole. */
function compare(path: string, before: JsonValue | undefined, after: JsonValue | undefined): Difference[] {
  if (isObject(before) && isObject(after)) {
    const keys = new Set([...Object.keys(before), ...Object.keys(after)]);
    return [...keys].flatMap((key) => compare(member(path, key), own(before, key), own(after, key)));
  }
  if (JSON.stringify(before) === JSON.stringify(after)) return [];
  return [{ path, ...(before === undefined ? {} : { oldValue: valueOf(before) }), ...newValueOf(after) }];
}

function newValueOf(after: JsonValue | undefined): Difference {
  return after === undefined ? {} : { newValue: valueOf(after) };
}

function valueOf(json: JsonValue) {
  return fromJson(ValueSchema, json);
}

/** `spec.labels.team`, `spec.managed.environment["DEBUG"]`. */
function member(path: string, key: string): string {
  return /^[a-z][a-z0-9_]*$/.test(key) ? `${path}.${key}` : `${path}[${JSON.stringify(key)}]`;
}

function own(object: { readonly [key: string]: JsonValue }, key: string): JsonValue | undefined {
  return Object.hasOwn(object, key) ? object[key] : undefined;
}

function isObject(value: JsonValue | undefined): value is { [key: string]: JsonValue } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
