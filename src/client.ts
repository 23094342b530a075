import type { Client } from "@connectrpc/connect";
import { Health } from "../gen/grpc/health/v1/health_pb.ts";
import { ServiceRegistry } from "../gen/steward/v1/service_registry_pb.ts";
import { type StreamLogsResponse, Supervisor } from "../gen/steward/v1/supervisor_pb.ts";
import { clientOf } from "./client/calls.ts";
import { type ConnectionOptions, openConnection } from "./client/connection.ts";
import { followLogs, type LogsRequest } from "./client/follow-logs.ts";
import type { WatchOptions } from "./client/resume.ts";
import { type EventsRequest, type EventsUpdate, watchEvents } from "./client/watch-events.ts";
import { type ServicesRequest, type ServicesUpdate, watchServices } from "./client/watch-services.ts";

export { Code } from "@connectrpc/connect";
export { ErrorReason } from "../gen/steward/v1/error_pb.ts";
export type { ClientTls, ConnectionOptions } from "./client/connection.ts";
export { StewardError } from "./client/errors.ts";
export type { LogsRequest } from "./client/follow-logs.ts";
export type { WatchOptions } from "./client/resume.ts";
export type { EventsRequest, EventsUpdate } from "./client/watch-events.ts";
export type { ChangedService, ServicesRequest, ServicesUpdate } from "./client/watch-services.ts";

/** Steward as a program uses it. What its calls reject with is a StewardError. */
export interface StewardClient extends Disposable {
  readonly registry: Client<typeof ServiceRegistry>;
  readonly supervisor: Client<typeof Supervisor>;
  readonly health: Client<typeof Health>;
  /**
   * All services that match, then every change, without gap or duplicate over interruptions. When the place is lost (the server no longer keeps what
   * was missed, or has another store) there is a new snapshot. Ends when the signal aborts; throws what does not pass by itself.
   */
  watchServices(request?: ServicesRequest, options?: WatchOptions): AsyncIterable<ServicesUpdate>;
  /**
   * Every event that matches, after a cursor or from now on, without gap or duplicate over interruptions. When the place is lost a `gap` says so and
   * the watch goes on with the oldest event that is kept. Ends when the signal aborts; throws what does not pass by itself.
   */
  watchEvents(request?: EventsRequest, options?: WatchOptions): AsyncIterable<EventsUpdate>;
  /**
   * What a service writes, from where the request begins, without gap or duplicate over interruptions and restarts. Ends when the signal aborts or the
   * service is deleted; throws what does not pass by itself.
   */
  followLogs(request: LogsRequest, options?: WatchOptions): AsyncIterable<StreamLogsResponse>;
  /** Ends the connection and every call on it. */
  close(): void;
}

/** Makes a client. It connects with its first call and again whenever it must. Throws TypeError for an address that is none. */
export function createStewardClient(options: ConnectionOptions): StewardClient {
  const { transport, close } = openConnection(options);
  const registry = clientOf(ServiceRegistry, transport);
  const supervisor = clientOf(Supervisor, transport);
  return {
    registry,
    supervisor,
    health: clientOf(Health, transport),
    watchServices: (request = {}, watch = {}) => watchServices(registry, request, watch),
    watchEvents: (request = {}, watch = {}) => watchEvents(supervisor, request, watch),
    followLogs: (request, watch = {}) => followLogs(supervisor, request, watch),
    close,
    [Symbol.dispose]: close,
  };
}
