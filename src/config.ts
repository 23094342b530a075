import { readFileSync } from "node:fs";
import { homedir, hostname } from "node:os";
import { join, resolve } from "node:path";

/** Everything `steward serve` can be told, checked once and never changed. */
export interface Config {
  /** Database (when embedded), run directory, logs and secrets. Nothing is written elsewhere. */
  readonly stateDir: string;
  /** Undefined: the embedded Postgres. */
  readonly databaseUrl: string | undefined;
  /** The system user to run the embedded Postgres as, when Steward itself runs as root. */
  readonly databaseUser: string | undefined;
  readonly listen: Address;
  /** Undefined: no gRPC listener of its own. */
  readonly grpcListen: Address | undefined;
  /** For both ports. Undefined: cleartext. */
  readonly tls: TlsFiles | undefined;
  /** Whose certificate it is that carries a name, the first that fits. */
  readonly tlsPrincipals: readonly CertificatePrincipal[];
  /** The web pages that may call the API from a browser. */
  readonly corsOrigins: readonly string[];
  readonly connections: ConnectionTimes;
  /** How long the server still answers after it has said that it stops. */
  readonly drainNoticeMs: number;
  readonly proxy: ProxyConfig;
  readonly node: string;
  readonly logLevel: LogLevel;
  readonly logFormat: "json" | "pretty";
  /** From what time on a call, or a statement to the database, is slow, so that the log tells of it. 0: none is. */
  readonly slowCallMs: number;
  readonly slowStatementMs: number;
  /** The ports that services with port 0 are given. */
  readonly portRange: { readonly first: number; readonly last: number };
  readonly allowRoot: boolean;
  /** Whether stopping the server stops its services. */
  readonly stopServices: boolean;
  /** How long a process goes on after its route is out. */
  readonly drainMs: number;
  /** How fast the processes of services are started. */
  readonly startBudget: { readonly perSecond: number; readonly burst: number };
  /** Whether each instance gets a control group of its own, where that can be. */
  readonly cgroups: "auto" | "off";
  /** Whether a limit that this host cannot enforce is refused, or accepted and told. */
  readonly unenforcedLimits: "refuse" | "report";
  /** How much of each output stream of a service is kept. */
  readonly logKeepBytes: number;
  /** How much of the disk shall stay free; undefined: as the disk watch thinks fit. */
  readonly diskReserveBytes: number | undefined;
  /** The public origin, such as `https://example.org`; empty if unknown. */
  readonly publicUrl: string;
  /** A file with the 32-byte secret that tokens are hashed with, in base64. Default: made in the state directory. */
  readonly pepperFile: string;
  /** Where a test has the server killed; undefined: nowhere. Read from STEWARD_FAIL_POINT alone. */
  readonly failPoint: string | undefined;
  /** What services may inherit of our own environment: JupyterHub's nine variables, as far as they are set. */
  readonly inheritedEnvironment: Readonly<Record<string, string>>;
}

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** PEM files. With a client CA every client must show a certificate that it signed. */
export interface TlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
  readonly clientCaFile: string | undefined;
}

export interface CertificatePrincipal {
  readonly name: string;
  readonly holder: { readonly kind: "operator" } | { readonly kind: "service"; readonly service: string };
}

export interface ConnectionTimes {
  readonly connectionAgeMs: number;
  readonly connectionAgeGraceMs: number;
  readonly pingEveryMs: number;
  readonly pingTimeoutMs: number;
}

export type ProxyConfig =
  | { readonly kind: "none" }
  | { readonly kind: "bundled"; readonly listen: Address }
  | {
      readonly kind: "external";
      readonly apiUrl: string;
      readonly token: string;
      readonly publicUrl: string | undefined;
    };

export type LogLevel = "trace" | "debug" | "info" | "warn" | "error" | "fatal";

/** One setting: a flag, an environment variable and what they mean. The flag wins. */
export interface Setting {
  readonly flag: string;
  readonly variable: string;
  /** What stands for the value in the help; undefined for a switch. */
  readonly placeholder: string | undefined;
  readonly description: string;
  readonly fallback: string | undefined;
  /** Whether the flag may be repeated; in the variable, commas separate. */
  readonly isList: boolean;
}

/** All settings of `steward serve`, in the order of its help. */
export const settings = [
  setting(
    "state-dir",
    "DIR",
    "database (when embedded), run directory, logs and the first admin token",
    defaultStateDir(),
  ),
  setting("database-url", "URL", "a Postgres 14 or newer to use instead of the embedded one"),
  setting("database-user", "NAME", "the system user to run the embedded Postgres as, when started as root"),
  setting("listen", "HOST:PORT", "where Connect, gRPC-Web and gRPC are served on one port", "127.0.0.1:7700"),
  setting("grpc-listen", "HOST:PORT|off", "where gRPC alone is served, faster", "127.0.0.1:7701"),
  setting("tls-cert", "FILE", "the certificate of both ports, with its chain (PEM); read again when it changes"),
  setting("tls-key", "FILE", "its private key (PEM)"),
  setting(
    "tls-client-ca",
    "FILE",
    "whoever connects must show a certificate that one of these authorities signed (PEM)",
  ),
  list(
    "tls-principal",
    "NAME=WHO",
    "who a client without a token is by a name in its certificate: operator or service:NAME",
  ),
  list("cors-origin", "ORIGIN", "the origin of web pages that may call the API, such as https://example.org"),
  setting("connection-age", "SECONDS", "at this age a connection is asked to go, so that clients spread", "1800"),
  setting("connection-age-grace", "SECONDS", "and closed so much later, with the streams that remain", "300"),
  setting("keepalive", "SECONDS", "a connection is pinged so often", "30"),
  setting("keepalive-timeout", "SECONDS", "and dropped if the answer takes longer", "10"),
  setting(
    "drain-notice",
    "SECONDS",
    "how long a server that stops still answers, while /readyz says that it stops",
    "0",
  ),
  setting(
    "proxy-listen",
    "HOST:PORT|off",
    "where the bundled proxy serves the public; off runs no proxy",
    "127.0.0.1:8000",
  ),
  setting("proxy-api-url", "URL", "the API of an external configurable-http-proxy to use instead of the bundled one"),
  setting("proxy-api-token-file", "FILE", "the file that holds its token (or set CONFIGPROXY_AUTH_TOKEN)"),
  setting("public-url", "URL", "the origin that the public reaches the proxy at"),
  setting("node", "NAME", "the name of this node", hostname()),
  setting("port-range", "FIRST-LAST", "the ports for services that ask for port 0", "20000-32000"),
  setting("drain", "SECONDS", "how long a process goes on after its route is out, before it is stopped", "1"),
  setting("start-rate", "N", "how many processes are started in a second, in the long run", "20"),
  setting("start-burst", "N", "how many may be started at once after a quiet time", "50"),
  setting("cgroups", "auto|off", "give each process a cgroup v2 of its own, where Steward may write one", "auto"),
  setting(
    "unenforced-limits",
    "refuse|report",
    "refuse limits that this host cannot enforce, or accept them and say so",
    "refuse",
  ),
  setting("log-keep", "MIB", "how much of each output stream of a service is kept", "50"),
  setting(
    "disk-reserve",
    "MIB",
    "below how much free space in the state directory output is told to be at risk; else 64, or 1 % of the disk when that is more",
  ),
  setting(
    "pepper-file",
    "FILE",
    "the secret that tokens are hashed with, in base64; several nodes on one store share it",
  ),
  setting("allow-root", undefined, "let services run as root"),
  setting("stop-services", undefined, "stop the services when the server stops"),
  setting("log-level", "LEVEL", "trace, debug, info, warn, error or fatal", "info"),
  setting("log-format", "FORMAT", "json, pretty, or auto: pretty on a terminal", "auto"),
  setting("slow-call", "SECONDS", "calls that take longer are told of in the log; 0 tells of none", "1"),
  setting("slow-query", "SECONDS", "so are statements to the database", "0.5"),
] as const satisfies readonly Setting[];

/** Several things are wrong with the configuration, reported together. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(`the configuration is wrong:\n${problems.map((problem) => `  - ${problem}`).join("\n")}`);
    this.problems = problems;
  }
}

/** Where state is kept unless told otherwise: below /var/lib as root, below the home directory as anybody else. */
export function defaultStateDir(environment: NodeJS.ProcessEnv = process.env): string {
  if (process.getuid?.() === 0) return "/var/lib/steward";
  return join(environment["XDG_STATE_HOME"] ?? join(homedir(), ".local", "state"), "steward");
}

/** What the command-line client takes from its environment. */
export interface ClientDefaults {
  readonly address: string | undefined;
  readonly token: string | undefined;
  /** Where a local server may have left its addresses and the first admin token, most likely first. */
  readonly stateDirs: readonly string[];
  /** Whether NO_COLOR asks for plain text. Source: no-color.org. */
  readonly plain: boolean;
}

export function readClientDefaults(environment = process.env): ClientDefaults {
  const named = environment["STEWARD_STATE_DIR"];
  return {
    address: environment["STEWARD_ADDRESS"] || undefined,
    token: environment["STEWARD_TOKEN"] || undefined,
    stateDirs: named ? [resolve(named)] : [resolve(".steward"), defaultStateDir(environment)],
    plain: Boolean(environment["NO_COLOR"]),
  };
}

/** Makes the configuration of flags (by name, without dashes) and the environment; throws one ConfigError with everything that is wrong. */
export function readConfig(
  flags: Readonly<Record<string, string | boolean | undefined>>,
  environment = process.env,
): Config {
  const reader = new Reader(flags, environment);
  const stateDir = resolve(reader.text("state-dir") ?? defaultStateDir(environment));
  const config: Config = {
    stateDir,
    databaseUrl: reader.url("database-url", ["postgres:", "postgresql:"]),
    databaseUser: reader.text("database-user"),
    listen: reader.address("listen") ?? { host: "127.0.0.1", port: 7700 },
    grpcListen: reader.addressOrOff("grpc-listen"),
    tls: readTls(reader),
    tlsPrincipals: reader.list("tls-principal").flatMap((each) => readPrincipal(reader, each)),
    corsOrigins: reader.list("cors-origin").flatMap((each) => readOrigin(reader, each)),
    connections: {
      connectionAgeMs: reader.number("connection-age", 1, 604_800) * 1_000,
      connectionAgeGraceMs: reader.number("connection-age-grace", 0, 86_400) * 1_000,
      pingEveryMs: reader.number("keepalive", 1, 3_600) * 1_000,
      pingTimeoutMs: reader.number("keepalive-timeout", 1, 3_600) * 1_000,
    },
    drainNoticeMs: reader.number("drain-notice", 0, 3_600) * 1_000,
    proxy: readProxy(reader, environment),
    node:
      reader.matching("node", /^[A-Za-z0-9._-]{1,63}$/, "1 to 63 letters, digits, dots, dashes and underscores") ??
      "node",
    logLevel: reader.oneOf("log-level", ["trace", "debug", "info", "warn", "error", "fatal"]) ?? "info",
    logFormat: readLogFormat(reader),
    slowCallMs: reader.number("slow-call", 0, 3_600) * 1_000,
    slowStatementMs: reader.number("slow-query", 0, 3_600) * 1_000,
    portRange: reader.range("port-range"),
    allowRoot: reader.on("allow-root"),
    stopServices: reader.on("stop-services"),
    drainMs: reader.number("drain", 0, 3_600) * 1_000,
    startBudget: {
      perSecond: reader.number("start-rate", 0.1, 10_000),
      burst: reader.number("start-burst", 1, 100_000),
    },
    cgroups: reader.oneOf("cgroups", ["auto", "off"]) ?? "auto",
    unenforcedLimits: reader.oneOf("unenforced-limits", ["refuse", "report"]) ?? "refuse",
    logKeepBytes: reader.number("log-keep", 1, 1_048_576) * 1_048_576,
    diskReserveBytes: reader.optionalNumber("disk-reserve", 1, 1_048_576, 1_048_576),
    publicUrl: reader.url("public-url", ["http:", "https:"])?.replace(/\/$/, "") ?? "",
    pepperFile: resolve(reader.text("pepper-file") ?? join(stateDir, "pepper")),
    failPoint: environment["STEWARD_FAIL_POINT"],
    inheritedEnvironment: inherited(environment),
  };
  reader.throwIfWrong();
  return Object.freeze(config);
}

function setting(flag: string, placeholder: string | undefined, description: string, fallback?: string): Setting {
  const variable = `STEWARD_${flag.toUpperCase().replaceAll("-", "_")}`;
  return { flag, variable, placeholder, description, fallback, isList: false };
}

function list(flag: string, placeholder: string, description: string): Setting {
  return { ...setting(flag, placeholder, `${description}; may be repeated`), isList: true };
}

function readTls(reader: Reader): TlsFiles | undefined {
  const [certFile, keyFile, clientCaFile] = [
    reader.file("tls-cert"),
    reader.file("tls-key"),
    reader.file("tls-client-ca"),
  ];
  if (certFile !== undefined && keyFile !== undefined) return { certFile, keyFile, clientCaFile };
  if (reader.text("tls-cert") !== undefined && reader.text("tls-key") !== undefined) return undefined;
  for (const flag of ["tls-cert", "tls-key", "tls-client-ca"])
    if (reader.text(flag) !== undefined) reader.wrong(`${reader.name(flag)} needs --tls-cert and --tls-key`);
  return undefined;
}

function readPrincipal(reader: Reader, given: string): CertificatePrincipal[] {
  const [, name, who, service] = /^(\S.*)=(operator|service:([A-Za-z0-9._-]{1,63}))$/.exec(given) ?? [];
  if (name === undefined || who === undefined) {
    reader.wrong(
      `${reader.name("tls-principal")} is NAME=operator or NAME=service:SERVICE, not ${JSON.stringify(given)}`,
    );
    return [];
  }
  if (reader.text("tls-client-ca") === undefined)
    reader.wrong(`${reader.name("tls-principal")} needs --tls-client-ca, which says whose certificates are believed`);
  return [{ name, holder: service === undefined ? { kind: "operator" } : { kind: "service", service } }];
}

function readOrigin(reader: Reader, given: string): string[] {
  if (URL.canParse(given) && /^https?:$/.test(new URL(given).protocol) && new URL(given).origin === given)
    return [given];
  reader.wrong(
    `${reader.name("cors-origin")} is an origin as browsers send it, such as https://example.org, not ${JSON.stringify(given)}`,
  );
  return [];
}

function readProxy(reader: Reader, environment: NodeJS.ProcessEnv): ProxyConfig {
  const apiUrl = reader.url("proxy-api-url", ["http:", "https:", "http+unix:"]);
  const listen = reader.addressOrOff("proxy-listen");
  if (apiUrl === undefined) return listen === undefined ? { kind: "none" } : { kind: "bundled", listen };
  const token = reader.fileText("proxy-api-token-file") ?? environment["CONFIGPROXY_AUTH_TOKEN"] ?? "";
  if (token === "")
    reader.wrong(
      `${reader.name("proxy-api-url")} needs the proxy's token: --proxy-api-token-file or CONFIGPROXY_AUTH_TOKEN`,
    );
  return { kind: "external", apiUrl, token, publicUrl: reader.text("public-url") };
}

function readLogFormat(reader: Reader): "json" | "pretty" {
  const format = reader.oneOf("log-format", ["json", "pretty", "auto"]) ?? "auto";
  if (format !== "auto") return format;
  return process.stderr.isTTY ? "pretty" : "json";
}

/** Source: JupyterHub, Spawner.env_keep, as it holds for services. */
const inheritable = [
  "CONDA_DEFAULT_ENV",
  "CONDA_ROOT",
  "JUPYTERHUB_SINGLEUSER_APP",
  "LANG",
  "LC_ALL",
  "LD_LIBRARY_PATH",
  "PATH",
  "PYTHONPATH",
  "VIRTUAL_ENV",
];

function inherited(environment: NodeJS.ProcessEnv): Record<string, string> {
  return Object.fromEntries(
    inheritable.flatMap((name) => {
      const value = environment[name];
      return value === undefined ? [] : [[name, value]];
    }),
  );
}

function declared(flag: string): Setting {
  const known = settings.find((each) => each.flag === flag);
  if (known === undefined) throw new Error(`no setting --${flag} is declared`);
  return known;
}

/** Reads values by flag name, flags before variables before defaults, and collects what is wrong. */
class Reader {
  readonly #flags: Readonly<Record<string, string | boolean | undefined>>;
  readonly #environment: NodeJS.ProcessEnv;
  readonly #problems: string[] = [];

  constructor(flags: Readonly<Record<string, string | boolean | undefined>>, environment: NodeJS.ProcessEnv) {
    this.#flags = flags;
    this.#environment = environment;
    const known = new Set<string>(settings.map(({ flag }) => flag));
    for (const flag of Object.keys(flags)) if (!known.has(flag)) this.wrong(`there is no setting --${flag}`);
  }

  wrong(problem: string): void {
    this.#problems.push(problem);
  }

  throwIfWrong(): void {
    if (this.#problems.length > 0) throw new ConfigError(this.#problems);
  }

  /** As whoever set it wrote it, flag or variable: there it is put right. */
  name(flag: string): string {
    const { variable } = declared(flag);
    return this.#flags[flag] === undefined && this.#environment[variable] ? variable : `--${flag}`;
  }

  text(flag: string): string | undefined {
    const known = declared(flag);
    const given = this.#flags[flag] ?? this.#environment[known.variable];
    if (given === undefined || given === "") return known.fallback;
    return String(given);
  }

  on(flag: string): boolean {
    const given = this.text(flag)?.toLowerCase();
    if (given === undefined || ["false", "0", "no", "off"].includes(given)) return false;
    if (["true", "1", "yes", "on"].includes(given)) return true;
    this.wrong(`${this.name(flag)} is on or off, not ${JSON.stringify(given)}`);
    return false;
  }

  matching(flag: string, pattern: RegExp, allowed: string): string | undefined {
    const given = this.text(flag);
    if (given !== undefined && !pattern.test(given))
      this.wrong(`${this.name(flag)} takes ${allowed}, not ${JSON.stringify(given)}`);
    return given;
  }

  oneOf<T extends string>(flag: string, allowed: readonly T[]): T | undefined {
    const given = this.text(flag);
    const found = allowed.find((each) => each === given);
    if (given !== undefined && found === undefined)
      this.wrong(`${this.name(flag)} is one of ${allowed.join(", ")}, not ${JSON.stringify(given)}`);
    return found;
  }

  number(flag: string, least: number, most: number): number {
    const given = this.text(flag);
    const value = Number(given);
    if (given === undefined || !Number.isFinite(value) || value < least || value > most) {
      this.wrong(`${this.name(flag)} is a number from ${least} to ${most}, not ${JSON.stringify(given)}`);
      return least;
    }
    return value;
  }

  /** In units of so many. */
  optionalNumber(flag: string, least: number, most: number, unit: number): number | undefined {
    return this.text(flag) === undefined ? undefined : this.number(flag, least, most) * unit;
  }

  range(flag: string): { first: number; last: number } {
    const given = this.text(flag) ?? "";
    const [, first, last] = /^(\d{1,5})-(\d{1,5})$/.exec(given) ?? [];
    const range = { first: Number(first), last: Number(last) };
    if (!(range.first >= 1 && range.last >= range.first && range.last <= 65_535)) {
      this.wrong(`${this.name(flag)} is FIRST-LAST within 1 to 65535, not ${JSON.stringify(given)}`);
    }
    return range;
  }

  address(flag: string): Address | undefined {
    const given = this.text(flag) ?? "";
    const [, bracketed, plain, port] = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]+)):(\d{1,5})$/.exec(given) ?? [];
    const host = bracketed ?? plain;
    if (host === undefined || Number(port) > 65_535) {
      this.wrong(`${this.name(flag)} is HOST:PORT, such as 127.0.0.1:7700 or [::1]:7700, not ${JSON.stringify(given)}`);
      return undefined;
    }
    return { host, port: Number(port) };
  }

  addressOrOff(flag: string): Address | undefined {
    return this.text(flag) === "off" ? undefined : this.address(flag);
  }

  list(flag: string): readonly string[] {
    return (this.text(flag) ?? "").split(",").flatMap((each) => (each.trim() === "" ? [] : [each.trim()]));
  }

  url(flag: string, protocols: readonly string[]): string | undefined {
    const given = this.text(flag);
    if (given === undefined) return undefined;
    const protocol = /^([a-z][a-z0-9+.-]*:)\/\//i.exec(given)?.[1]?.toLowerCase();
    // The value itself may hold a password: it is not repeated.
    if (protocol === undefined || !protocols.includes(protocol) || !URL.canParse(given))
      this.wrong(
        `${this.name(flag)} is a whole URL that starts with ${protocols.map((each) => `${each}//`).join(" or ")}`,
      );
    return given;
  }

  /** The whole path of a file that can be read. */
  file(flag: string): string | undefined {
    return this.fileText(flag) === undefined ? undefined : resolve(this.text(flag) ?? "");
  }

  fileText(flag: string): string | undefined {
    const path = this.text(flag);
    if (path === undefined) return undefined;
    try {
      return readFileSync(path, "utf8").trim();
    } catch (error) {
      this.wrong(`${this.name(flag)}: cannot read ${path}: ${error instanceof Error ? error.message : String(error)}`);
      return undefined;
    }
  }
}
