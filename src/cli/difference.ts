import { toJson } from "@bufbuild/protobuf";
import { type Value, ValueSchema } from "@bufbuild/protobuf/wkt";
import type { FieldDifference } from "../../gen/steward/v1/service_registry_pb.ts";
import { paint, type Screen } from "./print.ts";

/** What differs, a field a line: `+` is new, `-` is gone, `~` is another. */
export function printDifferences(screen: Screen, differences: readonly FieldDifference[]): void {
  for (const difference of differences) screen.write(`    ${differenceLine(screen, difference)}\n`);
}

function differenceLine(screen: Screen, { path, oldValue, newValue, hidden }: FieldDifference): string {
  if (hidden) return paint(screen, "yellow", `~ ${path} (not shown)`);
  if (oldValue === undefined) return paint(screen, "green", `+ ${path}: ${text(newValue)}`);
  if (newValue === undefined) return paint(screen, "red", `- ${path}: ${text(oldValue)}`);
  return paint(screen, "yellow", `~ ${path}: ${text(oldValue)} -> ${text(newValue)}`);
}

function text(value: Value | undefined): string {
  return value === undefined ? "" : JSON.stringify(toJson(ValueSchema, value));
}
