import type { TestProject } from "vitest/node";
import { PrivatePostgres } from "./postgres.ts";

/** One Postgres for the whole run: the first project that needs it starts it, and all of them get it from the root. */
export async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  const run = project.vitest.getRootProject();
  if (run.getProvidedContext().postgres !== undefined) return undefined;
  const postgres = await PrivatePostgres.start();
  run.provide("postgres", postgres.connection);
  return () => postgres.dispose();
}
