/**
 * What `npm start` does: runs Steward on its defaults with the state in .steward, applies examples/services.yaml and says where everything is.
 * Ctrl-C stops the server and, unlike `steward serve` alone, the example services with it.
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type ExecaError, execa } from "execa";

const root = fileURLToPath(new URL("..", import.meta.url));
const steward = `${root}bin/steward`;
const stateDir = `${root}.steward`;
const environment = { STEWARD_STATE_DIR: stateDir };

const server = execa(steward, ["serve", "--stop-services", "--log-level", "warn", ...process.argv.slice(2)], {
  cwd: root,
  env: environment,
  stdio: "inherit",
  reject: false,
});
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => server.kill("SIGTERM"));
const ended = server.then((result) => process.exit(result.exitCode ?? 1));

await healthy();
await execa(steward, ["apply", "-f", `${root}examples/services.yaml`, "--wait"], {
  cwd: root,
  env: environment,
  stdio: "inherit",
}).catch((error: ExecaError) => console.error(`the examples are not all ready: ${error.shortMessage}`));
const address = JSON.parse((await import("node:fs")).readFileSync(`${stateDir}/server.json`, "utf8")) as Record<
  string,
  Record<string, string>
>;
console.log(`
Steward runs.
  Connect, gRPC-Web, gRPC   ${address["addresses"]?.["connect"]}
  gRPC                      ${address["addresses"]?.["grpc"]}
  the proxy                 ${address["addresses"]?.["proxy"]}
  an example service        ${address["addresses"]?.["proxy"]}/services/whoami/
  the admin token           ${stateDir}/admin-token (found by the command line by itself)

Try, in another terminal in this directory:
  npx steward get services
  npx steward events -f
  curl ${address["addresses"]?.["proxy"]}/services/whoami/

Ctrl-C stops it.`);
await ended;

async function healthy(): Promise<void> {
  for (;;) {
    if (existsSync(`${stateDir}/server.json`)) {
      const check = await execa(steward, ["health"], { cwd: root, env: environment, reject: false });
      if (check.exitCode === 0) return;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
