/** One value of a page of metrics. */
export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** What stands on `/metrics`. */
export interface MetricsPage {
  /** Name, type and help of each metric. */
  readonly families: readonly { readonly name: string; readonly type: string; readonly help: string }[];
  readonly samples: readonly Sample[];
}

export async function readMetrics(origin: string): Promise<MetricsPage> {
  const answer = await fetch(`${origin}/metrics`);
  if (answer.status !== 200) throw new Error(`/metrics answered ${answer.status}`);
  const text = await answer.text();
  const helps = new Map([...text.matchAll(/^# HELP (\S+) (.*)$/gm)].map(([, name = "", help = ""]) => [name, help]));
  const types = [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)];
  return {
    families: types.map(([, name = "", type = ""]) => ({ name, type, help: helps.get(name) ?? "" })),
    samples: [...text.matchAll(/^([a-z]\w*)(?:\{(.*)\})? (\S+)$/gm)].map(([, name = "", labels = "", value]) => ({
      name,
      labels: Object.fromEntries(
        [...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, label = "", of = ""]) => [label, of]),
      ),
      value: Number(value),
    })),
  };
}

/** The values of a metric with all of these labels, added up; undefined if there is none. */
export function valueOf(
  { samples }: MetricsPage,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const wanted = Object.entries(labels);
  const found = samples.filter(
    (sample) => sample.name === name && wanted.every(([label, value]) => sample.labels[label] === value),
  );
  return found.length === 0 ? undefined : found.reduce((sum, { value }) => sum + value, 0);
}
