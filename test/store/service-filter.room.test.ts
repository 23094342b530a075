import { randomUUID } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import { parseServiceFilter, serviceFilter } from "../../src/domain/filter.ts";
import type { Service, Wish } from "../../src/domain/service.ts";
import { parseServiceOrder } from "../../src/domain/service-order.ts";
import { parseServiceSpec } from "../../src/domain/service-spec.ts";
import { blankStatus, type ServiceState } from "../../src/domain/status.ts";
import { Registry } from "../registry/workbench.ts";

const labelKeys = ["team", "Team", "x/y.z", "constructor"];

test("whatever the services and the filter, the database finds those that the predicate lets through", async () => {
  const registry = await Registry.start();

  await fc.assert(
    fc.asyncProperty(
      fc.array(aService, { minLength: 3, maxLength: 8, size: "max" }),
      fc.array(aFilter, { minLength: 20, maxLength: 60, size: "max" }),
      async (all, texts) => {
        await store(registry, all);
        const { services } = await registry.services.snapshot();
        for (const text of texts) {
          const inMemory = services.filter(serviceFilter(text)).map(({ name }) => name);
          expect(await found(registry, text), text).toEqual(inMemory);
        }
      },
    ),
    { numRuns: 40 },
  );
});

test.each([
  ["name = WEB-*", ["web-1", "Web-2"]],
  ["labels.team = TEAM", ["web-1"]],
  ["labels.team = ÄPFEL", []],
  ["labels.team : pfel", ["Web-2"]],
  ["labels.team : *", ["web-1", "Web-2"]],
  ["labels.team != team", ["other", "Web-2"]],
  ["NOT labels.team = team", ["other", "Web-2"]],
  ["labels.n > 9", ["Web-2"]],
  ["labels.n < 09", ["web-1"]],
  ["labels.constructor : *", []],
  [`labels.team = "100%_"`, []],
])("the filter %s finds %j", async (text, names) => {
  const registry = await Registry.start();
  await store(registry, [
    { ...plain, name: "web-1", labels: { team: "Team", n: "7" } },
    { ...plain, name: "Web-2", labels: { team: "äpfel", n: "10" } },
    { ...plain, name: "other", labels: {} },
  ]);

  expect(await found(registry, text)).toEqual(names);
});

interface Stored {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly setName: string;
  readonly admin: boolean;
  readonly isManaged: boolean;
  readonly url: string | undefined;
  readonly statusUrl: string | undefined;
  readonly wish: Wish;
  readonly state: ServiceState;
  readonly ready: boolean;
}

const plain: Omit<Stored, "name" | "labels"> = {
  ...{ setName: "", admin: false, isManaged: false, url: undefined, statusUrl: undefined },
  ...{ wish: "running", state: "external", ready: false },
};

/** Where two evaluators may differ: wildcards and quotes, numbers, letters whose case is disputed, what UTF-16 orders otherwise than UTF-8. */
const awkward = [
  ...["", "*", "%", "_", "\\", "'", '"', "a", "A", "aB"],
  ...["0", "7", "007", "10", "9".repeat(40), "-1", "1.5", "7 "],
  ...["ä", "Ä", "i", "İ", "ı", "ſ", "\u{212a}", "ß", "σς"],
  ...["\u{e000}", "\u{ffff}", "\u{10000}", "\u{10ffff}"],
];

const someText = fc.oneof(
  { arbitrary: fc.constantFrom(...awkward), weight: 4 },
  { arbitrary: fc.array(fc.constantFrom(...awkward), { maxLength: 3 }).map((parts) => parts.join("")), weight: 2 },
  { arbitrary: fc.string({ unit: "grapheme", maxLength: 4 }).map((text) => text.replaceAll("\0", "")), weight: 1 },
);

const aService: fc.Arbitrary<Stored> = fc.record({
  name: fc.stringMatching(/^[abAB]([abAB01.-]{0,2}[abAB01])?$/),
  labels: fc.dictionary(fc.constantFrom(...labelKeys), someText, { maxKeys: 3 }),
  setName: fc.constantFrom("", "set", "Set"),
  admin: fc.boolean(),
  isManaged: fc.boolean(),
  url: fc.constantFrom(undefined, "http://10.0.0.1:80", "http://b:1"),
  statusUrl: fc.constantFrom(undefined, "http://10.0.0.1:20000"),
  wish: fc.constantFrom("running", "stopped", "deleted"),
  state: fc.constantFrom("running", "external", "crash_loop"),
  ready: fc.boolean(),
});

const someField = fc.oneof(
  fc.constantFrom("name", "kind", "admin", "url", "wish", "state", "ready", "set_name"),
  fc.constantFrom(...labelKeys).map((key) => `labels.${key}`),
);

const someValue = fc.oneof(
  someText,
  someText.map((text) => `${text}*`),
  fc.constantFrom("managed", "EXTERNAL", "true", "running", "RUN*", "crash_loop", "http://10*", "set", "a", "B", "a0"),
);

const { filter: aFilter } = fc.letrec<{ filter: string; comparison: string }>((tie) => ({
  comparison: fc
    .tuple(someField, fc.constantFrom("=", "!=", ":", "<", "<=", ">", ">="), someValue)
    .map(([field, operator, value]) => `${field} ${operator} ${quoted(value)}`),
  filter: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    tie("comparison"),
    fc.array(tie("filter"), { minLength: 2, maxLength: 3 }).map((parts) => `(${parts.join(" AND ")})`),
    fc.array(tie("filter"), { minLength: 2, maxLength: 3 }).map((parts) => `(${parts.join(" OR ")})`),
    tie("filter").map((part) => `NOT ${part}`),
  ),
}));

function quoted(text: string): string {
  return `"${text.replaceAll(/[\\"]/g, String.raw`\$&`)}"`;
}

/** Makes the store have these services, of those with one name the first, and no other. */
async function store(registry: Registry, services: readonly Stored[]): Promise<void> {
  await registry.rows("TRUNCATE services CASCADE");
  const byKey = new Map(services.toReversed().map((service) => [service.name.toLowerCase(), service]));
  await registry.store.write(async (tx) => {
    for (const service of byKey.values()) await tx.insertService(asInserted(service));
  });
}

function asInserted({ name, labels, setName, wish, ...stored }: Stored) {
  const kind = stored.isManaged ? ({ type: "managed", command: ["a"] } as const) : ({ type: "external" } as const);
  const input = { kind, labels, url: stored.url, admin: stored.admin, oauthClientId: `service-${randomUUID()}` };
  const { spec } = parseServiceSpec(name, input, { forbidden: [], field: "spec" });
  const status: Service["status"] = {
    ...blankStatus,
    ...{ state: stored.state, ready: stored.ready, url: stored.statusUrl, transitionTime: new Date(0) },
  };
  return { name, uid: randomUUID(), spec, apiTokenSealed: undefined, setName, wish, status };
}

async function found({ store: { services } }: Registry, text: string): Promise<string[]> {
  const query = { order: parseServiceOrder(""), names: undefined, after: undefined, limit: 1_000 };
  const page = await services.page({ ...query, filter: parseServiceFilter(text) });
  return page.services.map(({ service }) => service.name);
}
