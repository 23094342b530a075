import { randomUUID } from "node:crypto";
import { tmpdir } from "node:os";
import { afterEach, beforeEach, expect, test } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import { isManaged, type ManagedService } from "../../src/domain/service.ts";
import { parseServiceSpec } from "../../src/domain/service-spec.ts";
import { Accounts } from "../../src/supervisor/account.ts";
import { Host } from "../../src/supervisor/host.ts";
import { Launcher } from "../../src/supervisor/launcher.ts";
import { Leftovers } from "../../src/supervisor/leftovers.ts";
import { LimitRules } from "../../src/supervisor/limit-rules.ts";
import { OutputKeeper } from "../../src/supervisor/output-keeper.ts";
import { ProcessTable } from "../../src/supervisor/process-table.ts";
import { Shims } from "../../src/supervisor/shims.ts";
import { Start } from "../../src/supervisor/start.ts";
import { aStatus } from "../rpc/arbitrary.ts";
import { StateDirectory } from "./state-directory.ts";

const leftovers = new Leftovers(new ProcessTable());
const launcher = new Launcher({ leftovers, groups: undefined, cwd: "/", shims: new Shims({ place: tmpdir() }) });
const failures: unknown[] = [];
const onFailure = (error: unknown) => void failures.push(error);

let stateDirectory: StateDirectory;
let outputKeeper: OutputKeeper;
let host: Host;

beforeEach(() => {
  failures.length = 0;
  stateDirectory = new StateDirectory();
  outputKeeper = new OutputKeeper({ onBeginAnew: () => undefined, onFailure });
  host = new Host({
    stateDir: stateDirectory.path,
    portRange: { first: 20_000, last: 29_999 },
    inheritedEnvironment: { PATH: "/usr/bin:/bin" },
    accounts: new Accounts({ ownUid: process.getuid?.() ?? -1, allowRoot: true }),
    limitRules: new LimitRules({ groups: undefined, unenforced: "refuse" }),
    outputKeeper,
    platform: { apiUrl: "", baseUrl: "/", publicHost: "", publicHubUrl: "", stewardAddress: "" },
    publicOrigin: "",
  });
});
afterEach(async () => {
  await outputKeeper.stop();
  await stateDirectory.clear();
  expect(failures).toEqual([]);
});

test("a start that fails because the database is away gives its port back", async () => {
  const service = aService();
  const before = start(service);
  const port = await portOf(before);
  await before.abandon();
  const away = new AppError("unavailable", "STORE_UNAVAILABLE", "the database is away");

  const failed = start(service, () => Promise.reject(away));
  await expect(failed.plan).rejects.toBe(away);

  const next = start(service);
  expect(await portOf(next)).toBe(port);
  await next.abandon();
});

test("a start that is given up at its gate gives its port back", async () => {
  const service = aService();
  const first = start(service);
  const port = await portOf(first);
  expect(await first.gate).not.toBeInstanceOf(Error);

  await first.abandon();

  const next = start(service);
  expect(await portOf(next)).toBe(port);
  await next.abandon();
});

test("the port of a start that is under way is nobody else's", async () => {
  const service = aService();
  const first = start(service);

  const next = start(service);

  expect(await portOf(next)).not.toBe(await portOf(first));
  await Promise.all([first.abandon(), next.abandon()]);
});

function start(service: ManagedService, tellSecret: () => Promise<string> = async () => "secret"): Start {
  const tokens = { forInstance: async () => ({ secret: await tellSecret(), token: undefined }) };
  return new Start(service, undefined, { host, tokens, launcher, leftovers, reach: () => undefined, onFailure });
}

async function portOf({ plan }: Start): Promise<string | undefined> {
  const { url } = await plan;
  return url === undefined ? undefined : new URL(url).port;
}

function aService(): ManagedService {
  const name = "web";
  const input = { url: "http://127.0.0.1:0", kind: { type: "managed" as const, command: ["sleep", "1000"] } };
  const service = {
    ...{ name, uid: randomUUID(), setName: "", wish: "running" as const, status: aStatus(), route: undefined },
    ...{ generation: 1, resets: 0, version: 1, revision: 1n, createTime: new Date(), updateTime: new Date() },
    spec: parseServiceSpec(name, input, { forbidden: [], field: "service.spec" }).spec,
  };
  if (!isManaged(service)) throw new Error("the service is managed");
  return service;
}
