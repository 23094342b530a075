import { invalid } from "./errors.ts";

/** In which order services are listed. Every order ends with the name, which no two services share. */
export type ServiceOrder = readonly OrderKey[];

export interface OrderKey {
  readonly field: OrderField;
  readonly descending: boolean;
}

export type OrderField = (typeof orderFields)[number];

const orderFields = ["name", "create_time", "update_time", "state"] as const;

/** Reads `state, create_time desc`. What is equal in all fields is by name, in the direction of the last one. Source: AIP-132. */
export function parseServiceOrder(text: string): ServiceOrder {
  const keys = text.trim() === "" ? [] : text.split(",").map(parseKey);
  const repeated = keys.find(({ field }, index) => keys.findIndex((each) => each.field === field) !== index);
  if (repeated !== undefined) throw wrong(`${repeated.field} stands in it twice`);
  const name = keys.findIndex(({ field }) => field === "name");
  if (name >= 0) return keys.slice(0, name + 1);
  return [...keys, { field: "name", descending: keys.at(-1)?.descending ?? false }];
}

/** The same order, written in one way. */
export function formatServiceOrder(order: ServiceOrder): string {
  return order.map(({ field, descending }) => (descending ? `${field} desc` : field)).join(", ");
}

/** Where a service stands in an order: the values that it is ordered by, as texts; of a time the microseconds since 1970. */
export type Place = readonly string[];

export function formatPlace(place: Place): string {
  // Names, states and numbers have no spaces.
  return place.join(" ");
}

/** Undefined if the text is no place in this order. */
export function parsePlace(order: ServiceOrder, text: string): Place | undefined {
  const place = text.split(" ");
  const fits = (value: string, index: number) =>
    order[index]?.field.endsWith("_time") !== true || /^-?\d{1,18}$/.test(value);
  return place.length === order.length && place.every(fits) ? place : undefined;
}

function parseKey(text: string): OrderKey {
  const [, word, direction] = /^\s*(\w+)(?:\s+(asc|desc))?\s*$/.exec(text) ?? [];
  const field = orderFields.find((each) => each === word);
  if (field === undefined) throw wrong(`${JSON.stringify(text.trim())} is none of ${orderFields.join(", ")}`);
  return { field, descending: direction === "desc" };
}

function wrong(problem: string): Error {
  return invalid({
    field: "order_by",
    description: `${problem}; it is a list of fields, each with or without desc, separated by commas`,
  });
}
