import { stripVTControlCharacters } from "node:util";
import { type DescMessage, type MessageShape, toJson } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { stringify } from "yaml";

export type OutputFormat = "table" | "json" | "yaml" | "name";

/** Where a command writes, and whether it may use colours. */
export interface Screen {
  write(text: string | Uint8Array): void;
  writeError(text: string | Uint8Array): void;
  readonly colours: boolean;
}

export function printMessage<D extends DescMessage>(
  screen: Screen,
  format: "json" | "yaml",
  schema: D,
  message: MessageShape<D>,
): void {
  const json = toJson(schema, message);
  screen.write(format === "json" ? `${JSON.stringify(json, undefined, 2)}\n` : stringify(json));
}

export function printList<D extends DescMessage>(
  screen: Screen,
  format: "json" | "yaml",
  schema: D,
  messages: readonly MessageShape<D>[],
): void {
  const json = messages.map((message) => toJson(schema, message));
  screen.write(format === "json" ? `${JSON.stringify(json, undefined, 2)}\n` : stringify(json));
}

/** One line of JSON for each message: what scripts read from a stream. */
export function printLine<D extends DescMessage>(screen: Screen, schema: D, message: MessageShape<D>): void {
  screen.write(`${JSON.stringify(toJson(schema, message))}\n`);
}

/** One YAML document for each message. */
export function printDocument<D extends DescMessage>(screen: Screen, schema: D, message: MessageShape<D>): void {
  screen.write(`---\n${stringify(toJson(schema, message))}`);
}

/** Columns as wide as their widest cell; the last one is not padded. */
export function printTable(screen: Screen, header: readonly string[], rows: readonly (readonly string[])[]): void {
  const widths = header.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => visibleLength(row[column] ?? ""))),
  );
  for (const row of [header, ...rows]) {
    const cells = row.map((cell, column) => (column === row.length - 1 ? cell : pad(cell, widths[column] ?? 0)));
    screen.write(`${cells.join("  ").trimEnd()}\n`);
  }
}

export function paint(screen: Screen, colour: "green" | "yellow" | "red" | "dim", text: string): string {
  if (!screen.colours || text === "") return text;
  const code = { green: 32, yellow: 33, red: 31, dim: 2 }[colour];
  return `\u001b[${code}m${text}\u001b[0m`;
}

/** `12s`, `5m`, `3h`, `9d`: how long ago. */
export function age(time: Timestamp | undefined, now = new Date()): string {
  if (time === undefined) return "-";
  const seconds = Math.max(0, Math.round((now.getTime() - timestampDate(time).getTime()) / 1_000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7_200) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3_600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

export function clockTime(time: Timestamp | undefined): string {
  return time === undefined ? "-" : timestampDate(time).toISOString();
}

function pad(cell: string, width: number): string {
  return cell + " ".repeat(Math.max(0, width - visibleLength(cell)));
}

function visibleLength(cell: string): number {
  return stripVTControlCharacters(cell).length;
}
