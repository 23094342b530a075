/** One measured promise: ours and the bare baseline, taken in turns in the same run. Only their ratio means something on another machine. */
export interface Figure {
  readonly name: string;
  readonly unit: string;
  readonly ours: number;
  /** Undefined: there is nothing to hold it against. */
  readonly bare: number | undefined;
  /** Ours against bare: the median of the rounds' ratios. Undefined like `bare`. */
  readonly ratio: number | undefined;
  /** What the ratio, or where there is none what is ours, shall be at least, for rates, or at most, for times and sizes. */
  readonly aim: { readonly atLeast: number } | { readonly atMost: number };
}

export interface Round {
  readonly ours: number;
  readonly bare: number;
}

/** Measures one group of figures. */
export type Measure = (options: { readonly rounds: number }) => Promise<readonly Figure[]>;

export function figureOf(head: Pick<Figure, "name" | "unit" | "aim">, rounds: readonly Round[]): Figure {
  return {
    ...head,
    ours: median(rounds.map(({ ours }) => ours)),
    bare: median(rounds.map(({ bare }) => bare)),
    ratio: median(rounds.map(({ ours, bare }) => ours / bare)),
  };
}

/** A figure that stands for itself. */
export function figureAlone(head: Pick<Figure, "name" | "unit" | "aim">, ours: number): Figure {
  return { ...head, ours, bare: undefined, ratio: undefined };
}

export function meetsAim({ ours, ratio = ours, aim }: Figure): boolean {
  return "atLeast" in aim ? ratio >= aim.atLeast : ratio <= aim.atMost;
}

export function median(values: readonly number[]): number {
  return percentile(values, 0.5);
}

/** The value that the share `part` of all values does not exceed. */
export function percentile(values: readonly number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? Number.NaN;
}

/** A table for people, one figure a line. */
export function tableOf(figures: readonly Figure[]): string {
  const rows = figures.map((figure) => {
    const { name, unit, ours, bare, ratio, aim } = figure;
    const wanted = "atLeast" in aim ? `>= ${aim.atLeast}` : `<= ${aim.atMost}`;
    return [name, shown(ours), shown(bare), unit, ratio?.toFixed(2) ?? "-", wanted, meetsAim(figure) ? "yes" : "NO"];
  });
  const header = ["figure", "ours", "bare", "unit", "ratio", "aim", "met"];
  const lines = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  return lines
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

function shown(value: number | undefined): string {
  if (value === undefined) return "-";
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
