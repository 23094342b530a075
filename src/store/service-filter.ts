import { type Comparison, foldCase, isWholeNumber, type ServiceField, type ServiceFilter } from "../domain/filter.ts";

/** Takes a value into the statement and returns what stands for it there. */
export type Parameter = (value: unknown) => string;

/** The condition, on services `s`, that holds of those that match: what the domain's predicate says of them. Never NULL, so that NOT turns it over. */
export function filterCondition(filter: ServiceFilter, parameter: Parameter): string {
  switch (filter.kind) {
    case "and":
    case "or": {
      const parts = filter.parts.map((part) => filterCondition(part, parameter));
      return `(${parts.join(filter.kind === "and" ? " AND " : " OR ")})`;
    }
    case "not":
      return `(NOT ${filterCondition(filter.part, parameter)})`;
    case "compare":
      return comparison(filter, parameter);
  }
}

function comparison({ field, key, operator, value }: Comparison<ServiceField>, parameter: Parameter): string {
  const text = fieldText(field, key, parameter);
  // Only of letters A to Z does this collation know the case.
  const folded = field === "name" ? "s.name_key" : `lower(${text} COLLATE "C")`;
  const condition = (holds: string, otherwise = "false") =>
    alwaysThere.has(field) ? `(${holds})` : `COALESCE(${holds}, ${otherwise})`;
  switch (operator) {
    case ":":
      if (value === "*") return `(${text} IS NOT NULL)`;
      return condition(`strpos(${folded}, ${parameter(foldCase(value))}::text) > 0`);
    case "=":
      return condition(equals(folded, value, parameter));
    case "!=":
      return condition(`NOT ${equals(folded, value, parameter)}`, "true");
    case "<":
    case "<=":
    case ">":
    case ">=": {
      const byCodePoint = `${text} COLLATE "C" ${operator} ${parameter(value)}::text`;
      if (!isWholeNumber(value)) return condition(byCodePoint);
      const byValue = `${text}::numeric ${operator} ${parameter(value)}::text::numeric`;
      return condition(`CASE WHEN ${text} COLLATE "C" ~ '^[0-9]+$' THEN ${byValue} ELSE ${byCodePoint} END`);
    }
  }
}

function equals(folded: string, value: string, parameter: Parameter): string {
  const wanted = foldCase(value);
  if (!wanted.endsWith("*")) return `(${folded} = ${parameter(wanted)}::text)`;
  return `starts_with(${folded}, ${parameter(wanted.slice(0, -1))}::text)`;
}

function fieldText(field: ServiceField, key: string | undefined, parameter: Parameter): string {
  switch (field) {
    case "name":
      return "s.name";
    case "kind":
      return "(s.spec #>> '{kind,type}')";
    case "admin":
      return "(s.spec ->> 'admin')";
    case "url":
      return "COALESCE(s.status ->> 'url', s.spec ->> 'url')";
    case "wish":
      return "s.wish";
    case "state":
      return "(s.status ->> 'state')";
    case "ready":
      return "(s.status ->> 'ready')";
    case "set_name":
      return "s.set_name";
    case "labels":
      return `(s.spec -> 'labels' ->> ${parameter(key)}::text)`;
  }
}

/** Without COALESCE around it an index can be used. */
const alwaysThere: ReadonlySet<ServiceField> = new Set(["name", "wish", "set_name"]);
