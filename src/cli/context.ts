import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type ClientTls, type ConnectionOptions, createStewardClient, type StewardClient } from "../client.ts";
import { UsageError } from "./failure.ts";

/** What the commands get from outside. */
export interface CliDefaults {
  readonly address: string | undefined;
  readonly token: string | undefined;
  readonly stateDirs: readonly string[];
  readonly plain: boolean;
}

/** The options that every command takes. */
export interface GlobalOptions {
  readonly address?: string;
  readonly token?: string;
  readonly tokenFile?: string;
  readonly caFile?: string;
  readonly certFile?: string;
  readonly keyFile?: string;
  readonly protocol: "connect" | "grpc";
}

/** The server as a command sees it. */
export interface Connection extends StewardClient {
  readonly address: string;
}

/** Finds address and token (flag, environment, what a local server left in its state directory) and makes the client. Opens nothing yet. */
export function connect(options: GlobalOptions, defaults: CliDefaults): Connection {
  const local = findLocalServer(defaults.stateDirs);
  const address = addressOf(options, defaults, local);
  const ofLocal = local !== undefined && isAddressOf(local, address) ? local : undefined;
  const token = findToken(options, defaults, ofLocal);
  return { address, ...clientOf({ address, token, protocol: options.protocol, tls: tlsOf(options) }) };
}

/** Where a command looks for the server. */
export function addressOf(
  options: GlobalOptions,
  defaults: CliDefaults,
  local = findLocalServer(defaults.stateDirs),
): string {
  return origin(
    options.address ??
      defaults.address ??
      local?.addresses.local ??
      local?.addresses.connect ??
      "http://127.0.0.1:7700",
  );
}

function clientOf(options: ConnectionOptions): StewardClient {
  try {
    return createStewardClient(options);
  } catch (error) {
    throw error instanceof TypeError ? new UsageError(error.message) : error;
  }
}

function tlsOf({ caFile, certFile, keyFile }: GlobalOptions): ClientTls {
  return {
    ...(caFile === undefined ? {} : { ca: readText("certificate", caFile) }),
    ...(certFile === undefined ? {} : { cert: readText("certificate", certFile) }),
    ...(keyFile === undefined ? {} : { key: readText("key", keyFile) }),
  };
}

function findToken(options: GlobalOptions, defaults: CliDefaults, local: LocalServer | undefined): string | undefined {
  if (options.token !== undefined) return options.token;
  if (options.tokenFile !== undefined) return readText("token", options.tokenFile);
  // What is found by itself goes to the server that left it, never to another that --address names.
  return defaults.token ?? (local === undefined ? undefined : readText("token", join(local.stateDir, "admin-token")));
}

function readText(what: "token" | "certificate" | "key", path: string): string {
  try {
    return readFileSync(path, "utf8").trim();
  } catch (error) {
    throw new UsageError(
      `cannot read the ${what} file ${path}: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}

function origin(address: string): string {
  const path = /^unix:(?:\/\/)?(\/.+)$/.exec(address)?.[1];
  if (path !== undefined) return `unix:${path}`;
  const url = address.includes("://") ? address : `http://${address}`;
  if (!/^https?:\/\//.test(url) || address.startsWith("unix:") || !URL.canParse(url))
    throw new UsageError(`the address is HOST:PORT, a URL or unix:/PATH, not ${JSON.stringify(address)}`);
  return url.replace(/\/+$/, "");
}

/** What `steward serve` leaves in its state directory for local clients. */
interface LocalServer {
  readonly stateDir: string;
  readonly addresses: {
    readonly connect: string;
    readonly grpc?: string;
    readonly local?: string;
    readonly proxy?: string;
  };
}

function isAddressOf({ addresses }: LocalServer, address: string): boolean {
  if (address.startsWith("unix:")) return address === addresses.local;
  const asked = new URL(address);
  return [addresses.connect, addresses.grpc].some((each) => {
    const own = each === undefined ? undefined : new URL(each);
    return own?.port === asked.port && (own.hostname === asked.hostname || (isLoopback(own) && isLoopback(asked)));
  });
}

function isLoopback({ hostname }: URL): boolean {
  return hostname === "localhost" || hostname === "[::1]" || /^127(\.\d+){3}$/.test(hostname);
}

function findLocalServer(stateDirs: readonly string[]): LocalServer | undefined {
  for (const stateDir of stateDirs) {
    const addresses = readAddresses(join(stateDir, "server.json"));
    if (addresses !== undefined) return { stateDir, addresses };
  }
  return undefined;
}

function readAddresses(path: string): LocalServer["addresses"] | undefined {
  try {
    return (JSON.parse(readFileSync(path, "utf8")) as Pick<LocalServer, "addresses">).addresses;
  } catch {
    // No server was started from there, or it is another user's: the next place may have one.
    return undefined;
  }
}
