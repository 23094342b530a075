import { execFile, spawn } from "node:child_process";
import { access, chown, cp, mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import pg from "pg";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Clock, systemClock } from "../../src/domain/clock.ts";
import { findBinaries } from "../../src/store/embedded-binaries.ts";
import { programEnvironment } from "../../src/store/embedded-command.ts";
import { databaseUrl, EmbeddedPostgres, type EmbeddedPostgresOptions } from "../../src/store/embedded-postgres.ts";
import { eventually } from "../support/eventually.ts";
import { createTestDatabase, PrivatePostgres } from "../support/postgres.ts";
import { PostgresParent } from "../support/postgres-parent.ts";

const run = promisify(execFile);
const isRoot = process.getuid?.() === 0;
const hasAccount = await succeeds("getent", "passwd", "postgres");
const hasNamespaces = await succeeds("unshare", "--user", "--map-user=65534", "--map-group=65534", "true");

let root: string;
let dataDir: string;
let endings: (() => Promise<void>)[];
/** A database made once, to be copied by the tests that are not about making one. */
let model: string;

beforeAll(async () => {
  model = await mkdtemp(join(tmpdir(), "steward-test-model-"));
  const postgres = new EmbeddedPostgres({ dataDir: join(model, "postgres"), log: () => undefined });
  await postgres.start();
  await postgres.stop();
});

afterAll(() => rm(model, { recursive: true, force: true }));

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "steward-test-"));
  dataDir = join(root, "postgres");
  endings = [];
});

afterEach(async () => {
  for (const end of endings.reverse()) await end();
  await rm(root, { recursive: true, force: true });
});

describe("starting", () => {
  test("makes a database, answers queries over a socket only, and ends its process", async () => {
    const postgres = embedded();

    await postgres.start();
    const { pid } = postgres;

    expect(await ask(databaseUrl(postgres.connection), "SELECT current_user || current_database() AS answer")).toBe(
      "stewardsteward",
    );
    expect(await ask(databaseUrl(postgres.connection), "SHOW listen_addresses")).toBe("");
    expect(await ask(databaseUrl(postgres.connection), "SHOW fsync")).toBe("on");
    expect(await ask(databaseUrl(postgres.connection), "SHOW server_encoding")).toBe("UTF8");
    expect(await modeOf(postgres.connection.host)).toBe(0o700);
    await postgres.stop();
    expect(await isAlive(pid)).toBe(false);
  });

  test("keeps the data over a stop and a start", async () => {
    await furnish();
    const postgres = embedded();
    await postgres.start();
    await ask(databaseUrl(postgres.connection), "CREATE TABLE kept AS SELECT 42 AS answer");

    await postgres.stop();
    await postgres.start();

    expect(await ask(databaseUrl(postgres.connection), "SELECT answer FROM kept")).toBe(42);
  });

  test("accepts stops in any number and at any time", async () => {
    const postgres = embedded();
    await postgres.stop();

    const [start] = await Promise.allSettled([postgres.start(), postgres.stop().then(() => postgres.stop())]);

    expect(start).toMatchObject({ status: "rejected", reason: expect.any(Error) });
    expect(postgres.pid).toBeUndefined();
    await postgres.start();
    expect(await ask(databaseUrl(postgres.connection), "SELECT 1 AS answer")).toBe(1);
  });

  test("does not mind odd characters in its path", async () => {
    const postgres = embedded({ dataDir: join(root, 'it\'s, "odd" & 100% ü') });

    await postgres.start();

    expect(await ask(databaseUrl(postgres.connection), "SELECT 1 AS answer")).toBe(1);
  });

  test("puts the socket elsewhere when the path is too long for one, and removes it", async () => {
    const postgres = embedded({ dataDir: join(root, "long".repeat(30)) });

    await postgres.start();
    const { host } = postgres.connection;

    expect(await ask(databaseUrl(postgres.connection), "SELECT 1 AS answer")).toBe(1);
    expect(await modeOf(host)).toBe(0o700);
    await postgres.stop();
    expect(await exists(host)).toBe(false);
  });

  test("removes the socket directory of a killed predecessor", async () => {
    const long = join(root, "long".repeat(30));
    const parent = started({ dataDir: long });
    const { url } = await parent.started();
    const left = new URL(url).searchParams.get("host") ?? "";
    endings.push(() => rm(left, { recursive: true, force: true }));
    await parent.kill();
    expect(await exists(left)).toBe(true);

    await embedded({ dataDir: long }).start();

    expect(await exists(left)).toBe(false);
  });

  test("works when the package's install script did not run", async () => {
    const native = await copyOfBinaries();
    const links = JSON.parse(await readFile(join(native, "pg-symlinks.json"), "utf8")) as { target: string }[];
    for (const { target } of links) await rm(join(native, "..", target), { force: true });
    const postgres = embedded({ nativeDir: native });

    await postgres.start();

    expect(await ask(databaseUrl(postgres.connection), "SELECT 1 AS answer")).toBe(1);
  });
});

describe("refusing", () => {
  test("a second start on a directory in use, naming who uses it", async () => {
    await furnish();
    await embedded().start();

    await expect(embedded().start()).rejects.toThrow(`${dataDir} is in use by another process (pid ${process.pid})`);
    await expect(started({ dataDir }).started()).rejects.toThrow("in use by another process");
  });

  test("a platform without binaries, naming the way out", () => {
    expect(() => findBinaries("darwin", "arm64")).toThrow("--database-url");
    expect(() => findBinaries("linux", "riscv64")).toThrow("--database-url");
  });

  test("a database that another version of Postgres made", async () => {
    await furnish();
    const postgres = embedded();
    await postgres.start();
    await postgres.stop();
    await writeFile(join(dataDir, "data", "PG_VERSION"), "17\n");

    await expect(postgres.start()).rejects.toThrow("was made by Postgres 17");
  });

  test("a user that does not exist", async () => {
    await expect(embedded({ user: "no-such-user" }).start()).rejects.toThrow("no user no-such-user");
  });

  test("says what Postgres said when it does not start", async () => {
    await furnish();
    const postgres = embedded();
    await postgres.start();
    await postgres.stop();
    await writeFile(join(dataDir, "data", "postgresql.auto.conf"), "no_such_setting = 1\n");

    await expect(postgres.start()).rejects.toThrow("no_such_setting");
    await rm(join(dataDir, "data", "postgresql.auto.conf"));
    await postgres.start();
  });
});

describe("after a crash", () => {
  test("Postgres ends with the process that started it, and the next start works at once", async () => {
    await furnish();
    const parent = started({ dataDir });
    const { pid, url } = await parent.started();
    await ask(url, "CREATE TABLE kept AS SELECT 42 AS answer");

    await parent.kill();
    const postgres = embedded();
    await postgres.start();

    expect(postgres.pid).not.toBe(pid);
    expect(await isAlive(pid)).toBe(false);
    expect(await ask(databaseUrl(postgres.connection), "SELECT answer FROM kept")).toBe(42);
  });

  test("a start succeeds after the postmaster and its parent were killed", async () => {
    await furnish();
    const parent = started({ dataDir });
    const { pid, url } = await parent.started();
    const busy = ask(url, "SELECT pg_sleep(60)").catch(() => "cut off");

    await killBoth(parent, pid);
    const postgres = embedded();
    await postgres.start();

    expect(await busy).toBe("cut off");
    expect(await ask(databaseUrl(postgres.connection), "SELECT 1 AS answer")).toBe(1);
  });

  test.skipIf(!isRoot || !hasAccount)("a start ends a Postgres that outlived its parent", async () => {
    await furnish();
    const orphan = await startedByHand(join(dataDir, "data"));
    const postgres = embedded();

    await postgres.start();

    expect(await isAlive(orphan)).toBe(false);
    expect(await ask(databaseUrl(postgres.connection), "SELECT 1 AS answer")).toBe(1);
  });

  test("a start ignores a pid file that names a stranger", async () => {
    await furnish();
    const postgres = embedded();
    await postgres.start();
    await postgres.stop();
    await writeFile(join(dataDir, "data", "postmaster.pid"), `${process.pid}\n/proc/self/cwd\n1\n5432\n`);

    await postgres.start();

    expect(await ask(databaseUrl(postgres.connection), "SELECT 1 AS answer")).toBe(1);
  });

  test("a start makes anew what a killed first start left unfinished", async () => {
    const parent = started({ dataDir });
    await eventually(() => exists(join(dataDir, "data.init", "PG_VERSION")), { everyMs: 2 });
    await parent.kill();
    expect(await readdir(dataDir)).not.toContain("data");
    const postgres = embedded();

    await postgres.start();

    expect(await readdir(dataDir)).not.toContain("data.init");
    expect(await ask(databaseUrl(postgres.connection), "SELECT 1 AS answer")).toBe(1);
  });

  test("no acknowledged insert is lost, whoever is killed", async () => {
    await furnish();
    let acknowledged = 0;
    for (const kill of [killParent, killServer, killBoth]) {
      const parent = started({ dataDir });
      const { pid, url } = await parent.started();
      await ask(url, "CREATE TABLE IF NOT EXISTS kept (number integer PRIMARY KEY)");

      const inserted = insertUntilCut(url, acknowledged, (count) => {
        if (count === acknowledged + 200) void kill(parent, pid);
      });
      acknowledged = await inserted;
      await parent.kill();
    }
    const postgres = embedded();
    await postgres.start();

    const kept = await ask(
      databaseUrl(postgres.connection),
      `SELECT count(*)::int FROM kept WHERE number <= ${acknowledged}`,
    );

    expect(acknowledged).toBeGreaterThanOrEqual(600);
    expect(kept).toBe(acknowledged);
  });
});

describe("while it is wanted", () => {
  test("a server that dies comes back at the same address", async () => {
    await furnish();
    const postgres = embedded();
    await postgres.start();
    const { pid } = postgres;
    const url = databaseUrl(postgres.connection);

    process.kill(pid ?? 0, "SIGKILL");

    expect(await eventually(() => ask(url, "SELECT 1 AS answer"))).toBe(1);
    expect(postgres.pid).not.toBe(pid);
    expect(databaseUrl(postgres.connection)).toBe(url);
  });

  test("the waits before restarts grow when it dies again and again", async () => {
    await furnish();
    const delaysMs: number[] = [];
    const postgres = embedded({}, impatient(delaysMs));
    await postgres.start();

    for (const round of [1, 2, 3]) {
      process.kill(postgres.pid ?? 0, "SIGKILL");
      await eventually(() => delaysMs.length >= round && ask(databaseUrl(postgres.connection), "SELECT 1 AS answer"));
    }

    expect(delaysMs).toEqual([100, 200, 400]);
  });

  test("a stop ends the wait for a restart", async () => {
    await furnish();
    const delaysMs: number[] = [];
    const never: Clock = { ...systemClock, after: (delayMs) => (delaysMs.push(delayMs), () => undefined) };
    const postgres = embedded({}, never);
    await postgres.start();
    process.kill(postgres.pid ?? 0, "SIGKILL");
    await eventually(() => delaysMs.length === 1);

    await postgres.stop();

    expect(postgres.pid).toBeUndefined();
  });
});

describe.skipIf(!isRoot)("whom it runs as", () => {
  test.skipIf(!hasAccount)("root uses the account postgres, also below a directory closed to it", async () => {
    const postgres = embedded();

    await postgres.start();

    expect(await modeOf(root)).toBe(0o700);
    expect(await uidOf(postgres.pid)).toBe(Number((await run("id", ["-u", "postgres"])).stdout));
  });

  test.skipIf(!hasAccount)("a strict umask does not keep the account from the libraries", async () => {
    const umask = process.umask(0o077);
    endings.push(async () => void process.umask(umask));

    await embedded().start();

    expect(await modeOf(join(dataDir, "lib"))).toBe(0o755);
  });

  test("an ordinary user uses no other account", async () => {
    await chown(root, 65534, 65534);
    const parent = started({ dataDir }, asUser(65534));

    const { pid, url } = await parent.started();

    expect(await uidOf(pid)).toBe(65534);
    expect(await ask(url, "SELECT 1 AS answer")).toBe(1);
    await parent.kill();
    await eventually(async () => !(await isAlive(pid)));
    await started({ dataDir }, asUser(65534)).started();
  });

  test.skipIf(!hasNamespaces)("a user without a name uses a namespace", async () => {
    await chown(root, 54321, 54321);
    const parent = started({ dataDir }, asUser(54321));

    const { pid, url } = await parent.started();

    expect(await uidOf(pid)).toBe(54321);
    expect(await ask(url, "SELECT 1 AS answer")).toBe(1);
  });

  test.skipIf(!hasNamespaces)("root uses a namespace when no account can reach the binaries", async () => {
    const native = await copyOfBinaries();
    const postgres = embedded({ nativeDir: native });

    await postgres.start();

    expect(await uidOf(postgres.pid)).toBe(0);
    expect(await ask(databaseUrl(postgres.connection), "SELECT 1 AS answer")).toBe(1);
    await killBySignal(postgres);
  });

  test.skipIf(!hasNamespaces || !hasAccount)("hands over what another identity made", async () => {
    const first = embedded({ nativeDir: await copyOfBinaries() });
    await first.start();
    await ask(databaseUrl(first.connection), "CREATE TABLE kept AS SELECT 42 AS answer");
    await first.stop();
    const second = embedded();

    await second.start();

    expect(await uidOf(second.pid)).not.toBe(0);
    expect(await ask(databaseUrl(second.connection), "SELECT answer FROM kept")).toBe(42);
  });

  test("an account that cannot reach the binaries is an error that names the ways out", async () => {
    const postgres = embedded({ nativeDir: await copyOfBinaries(), user: "nobody" });

    await expect(postgres.start()).rejects.toThrow(/user nobody.*--database-user.*--database-url/s);
  });

  test("nobody but root can ask for another user", async () => {
    await chown(root, 65534, 65534);

    await expect(started({ dataDir, user: "daemon" }, asUser(65534)).started()).rejects.toThrow("only root can");
  });
});

describe("for tests", () => {
  test("a database of one's own can be copied and dropped while it is in use", async () => {
    const first = await createTestDatabase();
    await ask(first.url, "CREATE TABLE kept AS SELECT 42 AS answer");
    const second = await createTestDatabase({ template: first.connection.database });
    const client = new pg.Client({ connectionString: first.url });
    client.on("error", () => undefined);
    await client.connect();

    await first.drop();

    expect(await ask(second.url, "SELECT answer FROM kept")).toBe(42);
    await expect(ask(first.url, "SELECT 1")).rejects.toThrow("does not exist");
    await second.drop();
    await client.end().catch(() => undefined);
  });

  test("a server of one's own goes away and comes back under the eyes of a pool", async () => {
    const postgres = await PrivatePostgres.start();
    endings.push(() => postgres.dispose());
    const pool = new pg.Pool({ connectionString: postgres.url });
    endings.push(() => pool.end());
    pool.on("error", () => undefined);
    await pool.query("CREATE TABLE kept AS SELECT 42 AS answer");

    for (const how of ["fast", "immediate", "kill"] as const) {
      await postgres.stop(how);
      // Of a killed server a process may still answer for a moment.
      await eventually(() => isRefused(pool.query("SELECT 1")));
      await postgres.start();
      await eventually(() => pool.query("SELECT answer FROM kept"));
    }
    postgres.crash();
    await eventually(() => pool.query("SELECT answer FROM kept"));
  });
});

function isRefused(query: Promise<unknown>): Promise<boolean> {
  return query.then(
    () => false,
    () => true,
  );
}

/** Puts a database in `dataDir` as an orderly stop leaves it. */
async function furnish(): Promise<void> {
  await run("cp", ["-a", join(model, "postgres"), dataDir]);
}

function embedded(options: Partial<EmbeddedPostgresOptions> = {}, clock: Clock = systemClock): EmbeddedPostgres {
  const postgres = new EmbeddedPostgres({ dataDir, log: () => undefined, ...options }, clock);
  endings.push(() => postgres.stop());
  return postgres;
}

function started(options: Omit<EmbeddedPostgresOptions, "log">, as: readonly string[] = []): PostgresParent {
  const parent = new PostgresParent(options, as);
  endings.push(async () => {
    const report = await parent.started().catch(() => undefined);
    await parent.kill();
    if (report !== undefined) await eventually(async () => !(await isAlive(report.pid)));
  });
  return parent;
}

async function ask(url: string, text: string): Promise<unknown> {
  const client = new pg.Client({ connectionString: url });
  client.on("error", () => undefined);
  await client.connect();
  try {
    const { rows } = await client.query<Record<string, unknown>>(text);
    return Object.values(rows[0] ?? {})[0];
  } finally {
    await client.end();
  }
}

/** Inserts the numbers after `from` one by one and returns the last that was acknowledged before the connection broke. */
async function insertUntilCut(url: string, from: number, acknowledged: (count: number) => void): Promise<number> {
  const client = new pg.Client({ connectionString: url });
  client.on("error", () => undefined);
  await client.connect();
  for (let number = from; ; number += 1) {
    try {
      await client.query("INSERT INTO kept VALUES ($1) ON CONFLICT DO NOTHING", [number + 1]);
    } catch {
      return number;
    }
    acknowledged(number + 1);
  }
}

async function killParent(parent: PostgresParent): Promise<void> {
  await parent.kill();
}

function killServer(_: PostgresParent, pid: number): Promise<void> {
  process.kill(pid, "SIGKILL");
  return Promise.resolve();
}

async function killBoth(parent: PostgresParent, pid: number): Promise<void> {
  process.kill(pid, "SIGKILL");
  await parent.kill();
}

/** A server in `directory` that nothing ties to anybody, and its process id. */
async function startedByHand(directory: string): Promise<number> {
  const { uid, gid } = await stat(directory);
  const as = ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups", "--"];
  const [file, ...args] = [...as, findBinaries().postgres, "-D", "/proc/self/cwd", "-c", "listen_addresses="];
  const place = ["-c", "unix_socket_directories=/proc/self/cwd"];
  const child = spawn(file, [...args, ...place], { cwd: directory, env: programEnvironment, stdio: "ignore" });
  endings.push(async () => void child.kill("SIGKILL"));
  await eventually(async () => (await readFile(join(directory, "postmaster.pid"), "utf8")).includes("ready"));
  return child.pid ?? 0;
}

/** Kills the server itself and waits until it is back. */
async function killBySignal(postgres: EmbeddedPostgres): Promise<void> {
  process.kill(postgres.pid ?? 0, "SIGKILL");
  await eventually(() => ask(databaseUrl(postgres.connection), "SELECT 1 AS answer"));
}

/** A clock on which every wait is over at once, and remembered. */
function impatient(delaysMs: number[]): Clock {
  return { ...systemClock, after: (delayMs, resume) => (delaysMs.push(delayMs), systemClock.after(0, resume)) };
}

async function copyOfBinaries(): Promise<string> {
  const native = join(root, "package", "native");
  await mkdir(join(root, "package"), { mode: 0o700 });
  await cp(findBinaries().native, native, { recursive: true, verbatimSymlinks: true });
  return native;
}

function asUser(uid: number): readonly string[] {
  return ["setpriv", `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups", "--"];
}

/** A zombie is dead: it has no working directory any more. */
async function isAlive(pid: number | undefined): Promise<boolean> {
  return (
    pid !== undefined &&
    readlink(`/proc/${pid}/cwd`).then(
      () => true,
      () => false,
    )
  );
}

async function uidOf(pid: number | undefined): Promise<number> {
  return (await stat(`/proc/${pid}`)).uid;
}

async function modeOf(path: string): Promise<number> {
  return (await stat(path)).mode & 0o777;
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

async function succeeds(file: string, ...args: readonly string[]): Promise<boolean> {
  return run(file, args).then(
    () => true,
    () => false,
  );
}
