import {
  Health as HealthService,
  HealthCheckResponse_ServingStatus as ServingStatus,
} from "../../gen/grpc/health/v1/health_pb.ts";
import { AppError } from "../domain/errors.ts";
import { type CallContext, type Handlers, type ServedService, serve } from "./handler.ts";

/** `grpc.health.v1`: whether the server ("") and each of its services takes calls. Changes are pushed to watchers at once. */
export class Health {
  /** Asks for no token: load balancers and probes have none. */
  readonly service: ServedService;
  readonly #statuses = new Map<string, ServingStatus>();
  readonly #watchers = new Set<() => void>();
  #isDraining = false;

  /** Everything begins as not serving. */
  constructor(services: readonly string[]) {
    for (const name of ["", ...services]) this.#statuses.set(name, ServingStatus.NOT_SERVING);
    this.service = serve(HealthService, this.#handlers(), { access: "open" });
  }

  /** Says for every service whether it takes calls. Ignored once the drain has begun. */
  setServing(isServing: boolean): void {
    if (!this.#isDraining) this.#setAll(isServing ? ServingStatus.SERVING : ServingStatus.NOT_SERVING);
  }

  /** Tells everybody to go elsewhere, for good. */
  drain(): void {
    this.#isDraining = true;
    this.#setAll(ServingStatus.NOT_SERVING);
  }

  #setAll(status: ServingStatus): void {
    for (const name of this.#statuses.keys()) this.#statuses.set(name, status);
    for (const tell of this.#watchers) tell();
  }

  #handlers(): Handlers<typeof HealthService> {
    return {
      check: async ({ service }) => {
        const status = this.#statuses.get(service);
        if (status === undefined) throw unknownService(service);
        return { status };
      },
      list: async () => ({
        statuses: Object.fromEntries([...this.#statuses].map(([name, status]) => [name, { status }])),
      }),
      watch: ({ service }, context) => this.#watch(service, context),
    };
  }

  // A service that is not known may come: the protocol wants the stream to stay open.
  async *#watch(service: string, { signal }: CallContext): AsyncIterable<{ status: ServingStatus }> {
    let wake: () => void = () => undefined;
    const tell = () => wake();
    const stop = () => {
      this.#watchers.delete(tell);
      wake();
    };
    this.#watchers.add(tell);
    signal.addEventListener("abort", stop, { once: true });
    let last: ServingStatus | undefined;
    while (!signal.aborted) {
      const changed = new Promise<void>((resolve) => {
        wake = resolve;
      });
      const status = this.#statuses.get(service) ?? ServingStatus.SERVICE_UNKNOWN;
      if (status === last) await changed;
      else yield { status };
      last = status;
    }
  }
}

function unknownService(name: string): AppError {
  return new AppError("not_found", "SERVICE_NOT_FOUND", `the server has no service ${JSON.stringify(name)}`, {
    metadata: { service: name },
  });
}
