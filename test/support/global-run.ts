import type { TestProject } from "vitest/node";
import { PrivatePostgres, testDatabases } from "./postgres.ts";
import { TestRun } from "./test-run.ts";

/**
 * What a whole run shares: one Postgres, and the look at the end that nothing is left. The first project that needs it starts it, and all of them
 * get it from the root.
 */
export async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  const root = project.vitest.getRootProject();
  if (root.getProvidedContext().postgres !== undefined) return undefined;
  const run = await TestRun.begin();
  const postgres = await PrivatePostgres.start().catch(async (error: unknown) => {
    await run.end([]);
    throw error;
  });
  root.provide("postgres", postgres.connection);
  return async () => {
    const left = await testDatabases(postgres.connection).then(
      (names) => names.map((name) => `database ${name}`),
      (error: unknown) => [`what nobody knows: ${String(error)}`],
    );
    await postgres.dispose();
    await run.end(left);
  };
}
