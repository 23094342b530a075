import type { ServiceFilter } from "../domain/filter.ts";
import type { OrderField, OrderKey, Place, ServiceOrder } from "../domain/service-order.ts";
import { filterCondition, type Parameter } from "./service-filter.ts";

/** What a page of services holds. */
export interface PageQuery {
  readonly filter: ServiceFilter | undefined;
  readonly order: ServiceOrder;
  /** Only services of these names; undefined: of all. */
  readonly names: readonly string[] | undefined;
  /** The place of the last service of the page before. */
  readonly after: Place | undefined;
  readonly limit: number;
}

/** The statement of a page: rows of `head`, `image` and `place`, in order; one without an image if nothing matches. */
export function pageStatement(o: PageQuery): { text: string; values: readonly unknown[] } {
  const values: unknown[] = [];
  const parameter: Parameter = (value) => `$${values.push(value)}`;
  const conditions = [
    ...(o.after === undefined ? [] : [isAfter(o.order, o.after, parameter)]),
    ...(o.names === undefined ? [] : [`s.name_key = ANY (${parameter(o.names)}::text[])`]),
    ...(o.filter === undefined ? [] : [filterCondition(o.filter, parameter)]),
  ];
  const where = conditions.length === 0 ? "" : `WHERE ${conditions.join(" AND ")}`;
  const keys = o.order.map(({ field }, index) => `${columns[field].key} AS key${index}`);
  const place = o.order.map(({ field }) => columns[field].asText);
  const by = (name: (key: OrderKey, index: number) => string) =>
    o.order.map((key, index) => `${name(key, index)}${key.descending ? " DESC" : ""}`).join(", ");
  const text = `SELECT head, CASE WHEN p.place IS NOT NULL THEN service_image(p.s) END AS image, p.place FROM store LEFT JOIN LATERAL
     (SELECT s, ${keys.join(", ")}, ARRAY[${place.join(", ")}] AS place FROM services s ${where}
       ORDER BY ${by(({ field }) => columns[field].key)} LIMIT ${parameter(o.limit)}) p ON true
   ORDER BY ${by((_, index) => `p.key${index}`)}`;
  return { text, values };
}

/** Behind a place: as one comparison where all keys go in one direction, because an index finds that at once. */
function isAfter(order: ServiceOrder, place: Place, parameter: Parameter): string {
  const keys = order.map(({ field, descending }, index) => ({
    key: columns[field].key,
    value: columns[field].ofText(parameter(place[index])),
    sign: descending ? "<" : ">",
  }));
  const signs = new Set(keys.map(({ sign }) => sign));
  if (signs.size === 1)
    return `(${keys.map(({ key }) => key).join(", ")}) ${[...signs].join()} (${keys.map(({ value }) => value).join(", ")})`;
  const alternatives = keys.map(({ key, value, sign }, index) =>
    [...keys.slice(0, index).map((each) => `${each.key} = ${each.value}`), `${key} ${sign} ${value}`].join(" AND "),
  );
  return `(${alternatives.join(" OR ")})`;
}

interface Column {
  readonly key: string;
  /** Whole, so that no two keys have one text: times go to the microsecond. */
  readonly asText: string;
  readonly ofText: (text: string) => string;
}

const columns: Readonly<Record<OrderField, Column>> = {
  name: textColumn("s.name_key"),
  create_time: timeColumn("s.create_time"),
  update_time: timeColumn("s.update_time"),
  // No index: each change of a status would have to be written into it, and cost more than the sorting of all services once in a while.
  state: textColumn(`(s.status ->> 'state') COLLATE "C"`),
};

function textColumn(key: string): Column {
  return { key, asText: key, ofText: (text) => `${text}::text` };
}

function timeColumn(key: string): Column {
  return {
    key,
    asText: `(extract(epoch FROM ${key}) * 1000000)::bigint::text`,
    ofText: (text) => `(timestamptz 'epoch' + ${text}::text::bigint * interval '1 microsecond')`,
  };
}
