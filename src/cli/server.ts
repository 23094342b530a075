import { HealthCheckResponse_ServingStatus as ServingStatus } from "../../gen/grpc/health/v1/health_pb.ts";
import { WhoAmIResponseSchema } from "../../gen/steward/v1/service_registry_pb.ts";
import type { Session } from "./command.ts";
import { clockTime, type OutputFormat, printMessage } from "./print.ts";

/** `steward whoami`. */
export async function whoAmI(session: Session, options: { output: OutputFormat }): Promise<void> {
  const me = await session.registry.whoAmI({}, { signal: session.signal });
  if (options.output === "json" || options.output === "yaml")
    return printMessage(session.screen, options.output, WhoAmIResponseSchema, me);
  const expiry = me.tokenExpireTime === undefined ? "never expires" : `expires ${clockTime(me.tokenExpireTime)}`;
  const rights = me.admin ? "(may do everything)" : me.scopes.join(" ") || "(may only ask who it is)";
  session.screen.write(`${me.name} ${rights}\n`);
  session.screen.write(
    `token ${me.tokenId} ${expiry}\nserver ${session.address} (node ${me.node}, version ${me.serverVersion})\n`,
  );
}

/** `steward health`: needs no token; fails unless the server serves. */
export async function checkHealth(session: Session, service: string | undefined): Promise<void> {
  const { status } = await session.health.check(
    { service: service ?? "" },
    { signal: session.signal, timeoutMs: 5_000 },
  );
  if (status !== ServingStatus.SERVING) throw new Error(`${service ?? "the server"} is not serving`);
  session.screen.write("serving\n");
}
