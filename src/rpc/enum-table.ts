/** The way back through a table of enum values. What is not in the table, such as UNSPECIFIED, leads to undefined. */
export function invertTable<Word extends string, Value>(
  table: Readonly<Record<Word, Value>>,
): { get(value: Value): Word | undefined } {
  const words = Object.keys(table) as Word[];
  return new Map(words.map((word) => [table[word], word]));
}
