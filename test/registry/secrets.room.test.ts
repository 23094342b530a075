import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { call, external, managed, Registry } from "./workbench.ts";

/** Every row of every table, bytes as text. */
async function wholeDatabase(registry: Registry): Promise<string> {
  const tables = await registry.rows<{ name: string }>(
    "SELECT quote_ident(table_name) AS name FROM information_schema.tables WHERE table_schema = 'public'",
  );
  const dumps = tables.map(({ name }) => registry.rows<{ row: string }>(`SELECT t::text AS row FROM ${name} t`));
  return (await Promise.all(dumps))
    .flat()
    .map(({ row }) => row)
    .join("\n");
}

/** A text as it stands in it, and as bytes of it are printed. */
function formsOf(secret: string): string[] {
  const bytes = Buffer.from(secret);
  return [secret, bytes.toString("hex"), bytes.toString("base64")];
}

test("no secret is in the database, in an event, in an answer or in an error", async () => {
  const registry = await Registry.start();
  const { services, tokens } = registry;
  const supplied = ["supplied-token-number-one", "supplied-token-number-two"];
  const [first = "", second = ""] = supplied;
  const remembered = () => call({ requestId: randomUUID() });
  const answers: unknown[] = [];
  const secrets = [...supplied];

  answers.push(await services.create(remembered(), { name: "web", spec: managed({ apiToken: first }) }));
  answers.push(await services.create(call(), { name: "other", spec: external() }));
  answers.push(
    await services.update(remembered(), {
      name: "web",
      etag: "",
      paths: undefined,
      allowMissing: false,
      spec: { apiToken: second },
    }),
  );
  answers.push(
    await services.apply(remembered(), {
      services: [{ name: "web", spec: managed({ apiToken: first }) }],
      setName: "s",
      prune: true,
    }),
  );
  answers.push(
    await services
      .create(call(), { name: "thief", spec: external({ apiToken: first }) })
      .catch((error: unknown) => error),
  );
  answers.push(
    await services
      .create(call(), { name: "short", spec: external({ apiToken: "7-chars" }) })
      .catch((error: unknown) => error),
  );
  const issued = await tokens.issue(remembered(), { service: "web", scopes: [], note: "", ttlMs: undefined });
  const rotated = await tokens.rotate(remembered(), { tokenId: issued.token.id, overlapMs: undefined });
  secrets.push(issued.secret, rotated.secret, await tokens.bootstrap(), "7-chars");
  answers.push(issued.token, rotated.token, rotated.replaced);
  answers.push(await services.get("web"), await services.snapshot());
  answers.push(await services.list({ pageSize: 0, pageToken: "", filter: "", orderBy: "", names: undefined }));
  answers.push(await tokens.list({ service: "", showEnded: true, pageSize: 0, pageToken: "" }));
  answers.push(await services.delete(remembered(), { name: "web", etag: "", force: true, allowMissing: false }));

  const told = JSON.stringify(answers.map(whole), bigints) + JSON.stringify(await registry.events(), bigints);
  const stored = await wholeDatabase(registry);

  expect(secrets).toHaveLength(6);
  expect(stored).toContain("supplied");
  for (const form of secrets.flatMap(formsOf)) {
    expect(told).not.toContain(form);
    expect(stored).not.toContain(form);
  }
});

test("another pepper opens nothing that is stored", async () => {
  const registry = await Registry.start();
  await registry.services.create(call(), { name: "web", spec: managed({ apiToken: "supplied-token" }) });
  const [row] = await registry.rows<{ sealed: Buffer }>("SELECT api_token_sealed AS sealed FROM services");
  if (row === undefined) throw new Error("nothing was stored");

  expect(registry.keys.open(row.sealed)).toBe("supplied-token");
  row.sealed[row.sealed.length - 1] = (row.sealed.at(-1) ?? 0) ^ 1;
  expect(() => registry.keys.open(row.sealed)).toThrow();
});

/** What JSON leaves out of an error. */
function whole(answer: unknown): unknown {
  return answer instanceof Error
    ? {
        ...Object.fromEntries(Object.entries(answer)),
        message: answer.message,
        stack: answer.stack,
        cause: String(answer.cause),
      }
    : answer;
}

function bigints(_: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}
