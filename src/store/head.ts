import { type Queryable, query } from "./postgres.ts";

/** The newest revision. */
export async function headOf(on: Queryable): Promise<bigint> {
  const [row] = await query<{ head: bigint }>(on, "SELECT head FROM store", [], "head");
  if (row === undefined) throw lostRow();
  return row.head;
}

/** The table `store` has one row, from the first migration on. */
export function lostRow(): Error {
  return new Error("the store has lost its row");
}
