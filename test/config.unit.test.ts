import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { homedir, hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Config, ConfigError, readClientDefaults, readConfig, settings } from "../src/config.ts";

let directory: string;
let tokenFile: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "steward-config-"));
  tokenFile = join(directory, "token");
  writeFileSync(tokenFile, " a-token\n");
});
afterAll(() => rmSync(directory, { recursive: true }));

/** What is wrong with it, line by line. */
function problemsOf(flags: Record<string, string | boolean>, environment: NodeJS.ProcessEnv = {}): readonly string[] {
  try {
    readConfig(flags, environment);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
  return [];
}

interface Sample {
  readonly flag: (typeof settings)[number]["flag"];
  readonly given: string | (() => string);
  readonly other: string | (() => string);
  /** What becomes of `given`. */
  readonly config: Partial<Config>;
  readonly bad?: string;
  readonly allowed?: string;
  /** What it makes sense with. */
  readonly beside?: Record<string, string>;
}

const proxy = (apiUrl: string, token: string, publicUrl?: string) =>
  ({ proxy: { kind: "external", apiUrl, token, publicUrl } }) as const;
const apiUrl = "http://proxy:8001";

const samples: readonly Sample[] = [
  { flag: "state-dir", given: "/a", other: "/b", config: { stateDir: "/a", pepperFile: "/a/pepper" } },
  {
    flag: "database-url",
    given: "postgres://a/b",
    other: "postgresql://c/d",
    config: { databaseUrl: "postgres://a/b" },
    bad: "mysql://a",
    allowed: "postgres://",
  },
  { flag: "database-user", given: "pg", other: "other", config: { databaseUser: "pg" } },
  {
    flag: "listen",
    given: "[::1]:0",
    other: "h:1",
    config: { listen: { host: "::1", port: 0 } },
    bad: "7700",
    allowed: "HOST:PORT",
  },
  {
    flag: "grpc-listen",
    given: "off",
    other: "h:1",
    config: { grpcListen: undefined },
    bad: "h:65536",
    allowed: "HOST:PORT",
  },
  {
    flag: "tls-cert",
    given: () => tokenFile,
    other: "/no/such/file",
    config: {},
    bad: "/no/such/file",
    allowed: "cannot read",
    beside: { STEWARD_TLS_KEY: "/dev/null" },
  },
  {
    flag: "tls-key",
    given: () => tokenFile,
    other: "/no/such/file",
    config: {},
    bad: "/no/such/file",
    allowed: "cannot read",
    beside: { STEWARD_TLS_CERT: "/dev/null" },
  },
  {
    flag: "tls-client-ca",
    given: () => tokenFile,
    other: "/no/such/file",
    config: {},
    bad: "/no/such/file",
    allowed: "cannot read",
    beside: { STEWARD_TLS_CERT: "/dev/null", STEWARD_TLS_KEY: "/dev/null" },
  },
  {
    flag: "tls-principal",
    given: "spiffe://x/a=b=operator, nightly=service:backup",
    other: "x=operator",
    config: {
      tlsPrincipals: [
        { name: "spiffe://x/a=b", holder: { kind: "operator" } },
        { name: "nightly", holder: { kind: "service", service: "backup" } },
      ],
    },
    bad: "x=admin",
    allowed: "NAME=service:SERVICE",
    beside: { STEWARD_TLS_CERT: "/dev/null", STEWARD_TLS_KEY: "/dev/null", STEWARD_TLS_CLIENT_CA: "/dev/null" },
  },
  {
    flag: "cors-origin",
    given: "https://example.org,http://localhost:3000",
    other: "https://other.example",
    config: { corsOrigins: ["https://example.org", "http://localhost:3000"] },
    bad: "https://example.org/",
    allowed: "an origin as browsers send it",
  },
  {
    flag: "connection-age",
    given: "60",
    other: "61",
    config: {
      connections: {
        connectionAgeMs: 60_000,
        connectionAgeGraceMs: 300_000,
        pingEveryMs: 30_000,
        pingTimeoutMs: 10_000,
      },
    },
    bad: "0",
    allowed: "1 to 604800",
  },
  {
    flag: "connection-age-grace",
    given: "0",
    other: "1",
    config: {
      connections: { connectionAgeMs: 1_800_000, connectionAgeGraceMs: 0, pingEveryMs: 30_000, pingTimeoutMs: 10_000 },
    },
    bad: "-1",
    allowed: "0 to 86400",
  },
  {
    flag: "keepalive",
    given: "1.5",
    other: "2",
    config: {
      connections: {
        connectionAgeMs: 1_800_000,
        connectionAgeGraceMs: 300_000,
        pingEveryMs: 1_500,
        pingTimeoutMs: 10_000,
      },
    },
    bad: "0",
    allowed: "1 to 3600",
  },
  {
    flag: "keepalive-timeout",
    given: "1",
    other: "2",
    config: {
      connections: {
        connectionAgeMs: 1_800_000,
        connectionAgeGraceMs: 300_000,
        pingEveryMs: 30_000,
        pingTimeoutMs: 1_000,
      },
    },
    bad: "soon",
    allowed: "1 to 3600",
  },
  { flag: "drain-notice", given: "5", other: "6", config: { drainNoticeMs: 5_000 }, bad: "-1", allowed: "0 to 3600" },
  {
    flag: "proxy-listen",
    given: "0.0.0.0:80",
    other: "off",
    config: { proxy: { kind: "bundled", listen: { host: "0.0.0.0", port: 80 } } },
    bad: "::1:80",
    allowed: "HOST:PORT",
  },
  {
    flag: "proxy-api-url",
    given: apiUrl,
    other: "https://other",
    config: proxy(apiUrl, "t"),
    bad: "ftp://h",
    allowed: "http://",
    beside: { CONFIGPROXY_AUTH_TOKEN: "t" },
  },
  {
    flag: "proxy-api-token-file",
    given: () => tokenFile,
    other: "/no/such/file",
    config: proxy(apiUrl, "a-token"),
    bad: "/no/such/file",
    allowed: "cannot read",
    beside: { STEWARD_PROXY_API_URL: apiUrl },
  },
  {
    flag: "public-url",
    given: "https://example.org/",
    other: "http://other",
    config: { publicUrl: "https://example.org" },
    bad: "http://",
    allowed: "https://",
  },
  { flag: "node", given: "n-1", other: "n-2", config: { node: "n-1" }, bad: "a b", allowed: "letters" },
  {
    flag: "port-range",
    given: "5000-5001",
    other: "1-2",
    config: { portRange: { first: 5000, last: 5001 } },
    bad: "9-1",
    allowed: "FIRST-LAST",
  },
  { flag: "drain", given: "0.5", other: "2", config: { drainMs: 500 }, bad: "-1", allowed: "0 to 3600" },
  {
    flag: "start-rate",
    given: "0.5",
    other: "30",
    config: { startBudget: { perSecond: 0.5, burst: 50 } },
    bad: "0",
    allowed: "0.1 to 10000",
  },
  {
    flag: "start-burst",
    given: "1000",
    other: "30",
    config: { startBudget: { perSecond: 20, burst: 1000 } },
    bad: "many",
    allowed: "1 to 100000",
  },
  { flag: "cgroups", given: "off", other: "auto", config: { cgroups: "off" }, bad: "on", allowed: "auto, off" },
  {
    flag: "unenforced-limits",
    given: "report",
    other: "refuse",
    config: { unenforcedLimits: "report" },
    bad: "ignore",
    allowed: "refuse, report",
  },
  {
    flag: "log-keep",
    given: "2",
    other: "3",
    config: { logKeepBytes: 2 * 1_048_576 },
    bad: "lots",
    allowed: "1 to 1048576",
  },
  {
    flag: "disk-reserve",
    given: "2",
    other: "3",
    config: { diskReserveBytes: 2 * 1_048_576 },
    bad: "0",
    allowed: "1 to 1048576",
  },
  { flag: "pepper-file", given: "/p", other: "/q", config: { pepperFile: "/p" } },
  { flag: "allow-root", given: "yes", other: "no", config: { allowRoot: true }, bad: "maybe", allowed: "on or off" },
  { flag: "stop-services", given: "on", other: "off", config: { stopServices: true }, bad: "2", allowed: "on or off" },
  {
    flag: "log-level",
    given: "trace",
    other: "warn",
    config: { logLevel: "trace" },
    bad: "loud",
    allowed: "trace, debug, info, warn, error, fatal",
  },
  {
    flag: "log-format",
    given: "pretty",
    other: "json",
    config: { logFormat: "pretty" },
    bad: "xml",
    allowed: "json, pretty, auto",
  },
  { flag: "slow-call", given: "0", other: "2", config: { slowCallMs: 0 }, bad: "never", allowed: "0 to 3600" },
  { flag: "slow-query", given: "0.25", other: "2", config: { slowStatementMs: 250 }, bad: "-1", allowed: "0 to 3600" },
];

const text = (value: string | (() => string)) => (typeof value === "string" ? value : value());
const variableOf = (flag: string) => settings.find((each) => each.flag === flag)?.variable ?? "";

test("every setting is tried here", () => {
  expect(samples.map(({ flag }) => flag)).toEqual(settings.map(({ flag }) => flag));
});

test.each(samples)("--$flag is taken from its flag, from its variable, and the flag wins", (sample) => {
  const { flag, given, other, config, beside = {} } = sample;
  const variable = variableOf(flag);

  const byFlag = readConfig({ [flag]: text(given) }, beside);
  const byVariable = readConfig({}, { ...beside, [variable]: text(given) });
  const byBoth = readConfig({ [flag]: text(given) }, { ...beside, [variable]: text(other) });

  for (const read of [byFlag, byVariable, byBoth]) expect(read).toMatchObject(config);
});

test.each(samples.filter(({ bad }) => bad !== undefined))(
  "--$flag refuses $bad, says what is allowed and where it was set",
  ({ flag, bad = "", allowed, beside = {} }) => {
    const variable = variableOf(flag);

    const [byFlag, ...others] = problemsOf({ [flag]: bad }, beside);
    const [byVariable] = problemsOf({}, { ...beside, [variable]: bad });

    expect(byFlag).toMatch(new RegExp(`^--${flag}\\b`));
    expect(byFlag).toContain(allowed);
    expect(byVariable).toMatch(new RegExp(`^${variable}\\b`));
    expect(others.filter((problem) => !problem.includes("needs the proxy's token"))).toEqual([]);
  },
);

test("without any setting there are sensible ones", () => {
  const config = readConfig({}, { PATH: "/bin", SECRET: "x", LANG: "C" });

  expect(config).toMatchObject({
    databaseUrl: undefined,
    listen: { host: "127.0.0.1", port: 7700 },
    grpcListen: { host: "127.0.0.1", port: 7701 },
    proxy: { kind: "bundled", listen: { host: "127.0.0.1", port: 8000 } },
    node: hostname(),
    portRange: { first: 20_000, last: 32_000 },
    allowRoot: false,
    stopServices: false,
    cgroups: "auto",
    unenforcedLimits: "refuse",
    slowCallMs: 1_000,
    slowStatementMs: 500,
    publicUrl: "",
    inheritedEnvironment: { PATH: "/bin", LANG: "C" },
  });
  expect(Object.isFrozen(config)).toBe(true);
});

test("an empty variable is no setting", () => {
  expect(readConfig({}, { STEWARD_LISTEN: "", STEWARD_DRAIN: "" })).toMatchObject({
    listen: { port: 7700 },
    drainMs: 1_000,
  });
});

test("everything that is wrong is told at once", () => {
  const flags = Object.fromEntries(samples.flatMap(({ flag, bad }) => (bad === undefined ? [] : [[flag, bad]])));

  const problems = problemsOf({ ...flags, "no-such": "x" });

  for (const { flag, bad } of samples)
    if (bad !== undefined)
      expect(
        problems.filter((problem) => problem.startsWith(`--${flag} `) || problem.startsWith(`--${flag}:`)),
      ).not.toEqual([]);
  expect(problems).toContain("there is no setting --no-such");
  expect(new ConfigError(problems).message.split("\n")).toHaveLength(problems.length + 1);
});

test("an external proxy needs its token", () => {
  expect(problemsOf({ "proxy-api-url": apiUrl })).toEqual([expect.stringContaining("CONFIGPROXY_AUTH_TOKEN")]);
  expect(readConfig({ "proxy-api-url": apiUrl }, { CONFIGPROXY_AUTH_TOKEN: "t" }).proxy).toMatchObject({ token: "t" });
});

test("TLS needs a certificate and its key, client certificates an authority to believe", () => {
  expect(problemsOf({ "tls-cert": tokenFile })).toEqual(["--tls-cert needs --tls-cert and --tls-key"]);
  expect(problemsOf({ "tls-key": tokenFile })).toEqual(["--tls-key needs --tls-cert and --tls-key"]);
  expect(problemsOf({ "tls-client-ca": tokenFile })).toEqual(["--tls-client-ca needs --tls-cert and --tls-key"]);
  expect(problemsOf({ "tls-principal": "a=operator" })).toEqual([expect.stringContaining("needs --tls-client-ca")]);
  expect(readConfig({ "tls-cert": tokenFile, "tls-key": tokenFile }).tls).toEqual({
    certFile: tokenFile,
    keyFile: tokenFile,
    clientCaFile: undefined,
  });
});

test("a URL that is wrong is not repeated: it may hold a password", () => {
  expect(problemsOf({ "database-url": "mysql://u:hunter2@h/d" }).join()).not.toContain("hunter2");
});

test("state is kept below the home directory of whoever is not root", () => {
  const { stateDirs } = readClientDefaults({ XDG_STATE_HOME: "/x" });

  const home = process.getuid?.() === 0 ? "/var/lib/steward" : "/x/steward";
  expect(stateDirs.at(-1)).toBe(home);
  expect(readClientDefaults({}).stateDirs.at(-1)).toBe(
    process.getuid?.() === 0 ? home : join(homedir(), ".local/state/steward"),
  );
});

test("the client takes address, token and the wish for plain text from its environment", () => {
  const environment = { STEWARD_ADDRESS: "h:1", STEWARD_TOKEN: "t", STEWARD_STATE_DIR: "/s", NO_COLOR: "1" };

  expect(readClientDefaults(environment)).toEqual({ address: "h:1", token: "t", stateDirs: ["/s"], plain: true });
  expect(readClientDefaults({ STEWARD_ADDRESS: "", NO_COLOR: "" })).toMatchObject({ address: undefined, plain: false });
});
