import { existsSync } from "node:fs";
import { execa } from "execa";
import { afterEach, beforeEach, expect, test } from "vitest";
import { StateDirectory } from "../supervisor/state-directory.ts";
import { createTestDatabase, type TestDatabase } from "../support/postgres.ts";

const isRoot = process.getuid?.() === 0;
const program = new URL("../fixtures/pid-taken-over.ts", import.meta.url).pathname;

let database: TestDatabase;
let directory: StateDirectory;
beforeEach(async () => {
  database = await createTestDatabase();
  directory = new StateDirectory();
});
afterEach(async () => {
  await directory.clear();
  await database.drop();
});

test.skipIf(!isRoot || !existsSync("/proc/sys/kernel/ns_last_pid"))(
  "a program that took over the pids of a service is never signalled, whatever is asked of the service",
  async () => {
    const order = { connection: database.connection, stateDir: directory.path };
    const namespace = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    // A shell is the first process of the namespace and reaps who has lost its parent.
    const reaper = ["/bin/sh", "-c", '"$@"; exit $?', "sh"];
    const command = [...reaper, process.execPath, program, JSON.stringify(order)];

    const { stdout } = await execa("/usr/bin/unshare", [...namespace, ...command]);

    expect(JSON.parse(stdout)).toEqual({
      sameNumbers: true,
      lastExit: "lost",
      bystanders: [true, true],
      afterStop: [true, true],
      afterDelete: [true, true],
    });
  },
);
