import { execFile } from "node:child_process";
import { createRequire } from "node:module";
import { join } from "node:path";
import { promisify } from "node:util";

export interface ProxyListeners {
  readonly publicHost: string;
  readonly publicPort: number;
  readonly api: { readonly socket: string } | { readonly port: number };
}

/** The command line of the proxy that is installed with us: our own Node runs it, and it ends with us. */
export async function bundledProxyCommand(listeners: ProxyListeners): Promise<readonly [string, ...string[]]> {
  const { publicHost, publicPort, api } = listeners;
  const listen = ["--ip", publicHost, "--port", String(publicPort)];
  const control =
    "socket" in api ? ["--api-socket", api.socket] : ["--api-ip", "127.0.0.1", "--api-port", String(api.port)];
  const program = [process.execPath, "--import", lifeline, proxyProgram()];
  const [file = process.execPath, ...args] = [...(await tether()), ...program];
  return [file, ...args, ...listen, ...control, "--log-level", "warn"];
}

/** Ends the proxy when the pipe at its standard input closes, which it does however we die. */
const lifeline = `data:text/javascript,${encodeURIComponent('process.stdin.on("close", () => process.exit(2)).resume();')}`;

function proxyProgram(): string {
  const manifest = createRequire(import.meta.url).resolve("configurable-http-proxy/package.json");
  return join(manifest, "..", "bin", "configurable-http-proxy");
}

/**
 * The most that setpriv can do here: the kernel kills the proxy with us even when it is too busy to notice, it can gain no rights, and as root
 * it keeps only the right to low ports. Nothing where setpriv is missing; the lifeline still holds then.
 */
async function tether(): Promise<readonly string[]> {
  const tie = ["setpriv", "--pdeathsig", "KILL", "--no-new-privs"];
  const rights = ["--inh-caps", "-all", "--bounding-set", "-all,+net_bind_service"];
  for (const prefix of [[...tie, ...rights], tie]) if (await runs(prefix)) return prefix;
  return [];
}

async function runs([file = "", ...args]: readonly string[]): Promise<boolean> {
  try {
    await promisify(execFile)(file, [...args, "true"], { timeout: 5_000 });
    return true;
  } catch {
    return false;
  }
}
