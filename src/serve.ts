import { once } from "node:events";
import { pino } from "pino";
import pretty from "pino-pretty";
import { keepCompiledCode } from "./compiled-code.ts";
import type { Config } from "./config.ts";
import { startSteward } from "./main.ts";
import { currentCall } from "./rpc/current-call.ts";

/** One Ctrl-C may come twice, from the terminal and through npm, and is one wish all the same. */
const sameWishMs = 1_000;

/** Runs the control plane until SIGTERM or SIGINT; another one a second later or more ends it at once. */
export async function serveUntilStopped(config: Config, version: string): Promise<void> {
  const stream =
    config.logFormat === "pretty"
      ? pretty({ destination: 2, sync: true, ignore: "pid,hostname" })
      : pino.destination({ dest: 2, sync: true });
  const log = pino({ level: config.logLevel, base: { node: config.node }, mixin: currentCall }, stream);
  const stopping = AbortSignal.any([onSignal("SIGTERM"), onSignal("SIGINT")]);
  const steward = await startSteward(config, log, version);
  const { connect, grpc, local, proxy } = steward.addresses;
  log.info({ connect, grpc, local, proxy, adminToken: steward.adminTokenFile, version }, "steward serves");
  // Without certificates the signal means what it always does: the terminal is gone.
  if (config.tls !== undefined) process.on("SIGHUP", () => void steward.reloadCertificates());
  await keepCompiledCode().catch((error: unknown) => log.warn({ err: error }, "compiled code could not be kept"));
  if (!stopping.aborted) await once(stopping, "abort");
  endAtOnceAfter(performance.now() + sameWishMs);
  log.info(
    config.stopServices
      ? "stopping, with all services"
      : "stopping; services run on and the next start takes them over",
  );
  await steward.stop();
}

function endAtOnceAfter(timeMs: number): void {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      if (performance.now() >= timeMs) process.exit(1);
    });
  }
}

function onSignal(signal: NodeJS.Signals): AbortSignal {
  const controller = new AbortController();
  process.once(signal, () => controller.abort());
  return controller.signal;
}
