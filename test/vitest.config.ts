import { defineConfig } from "vitest/config";

/** For projects whose tests meet real neighbours. */
const globalSetup = [new URL("support/global-run.ts", import.meta.url).pathname];

export default defineConfig({
  test: {
    root: new URL("..", import.meta.url).pathname,
    projects: [
      { extends: true, test: { name: "unit", include: ["test/**/*.unit.test.ts"] } },
      {
        extends: true,
        test: {
          name: "room",
          include: ["test/**/*.room.test.ts"],
          globalSetup,
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        extends: true,
        test: {
          name: "end-to-end",
          include: ["test/**/*.e2e.test.ts"],
          globalSetup,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
    ],
    pool: "forks",
    maxWorkers: 2,
  },
});
