import { randomUUID } from "node:crypto";
import { AppError } from "../domain/errors.ts";
import type { ManagedService } from "../domain/service.ts";
import type { Launched, LaunchRequest } from "./launcher.ts";
import { recordIdentity } from "./run-directory.ts";
import type { InstanceToken, RunnerTools } from "./runner-tools.ts";

/** What a start needs, or why it cannot be. */
export interface Plan {
  readonly url: string | undefined;
  readonly token: InstanceToken | undefined;
  readonly request: LaunchRequest | Error;
  /** Which limits will have no effect, for people. */
  readonly unenforced: string;
}

export interface AtGate {
  readonly launched: Launched;
  readonly request: LaunchRequest;
}

type StartTools = Pick<RunnerTools, "host" | "tokens" | "launcher" | "leftovers" | "reach" | "onFailure">;

/**
 * A start on its way, as far as it goes before its intent is durable: it is planned, forked, and noted who waits at the gate. Nothing of the service
 * runs there, and without us the gate closes; so it may be begun on a guess, and be given up.
 */
export class Start {
  readonly instanceId = randomUUID();
  /** As it was when the start began. */
  readonly service: ManagedService;
  /** Rejects while the database, which it asks for the service's token, is away. */
  readonly plan: Promise<Plan>;
  /** Who waits at the gate, or why nobody does. */
  readonly gate: Promise<AtGate | Error>;
  readonly #tools: StartTools;

  /** `url` is the one of the instance before. */
  constructor(service: ManagedService, url: string | undefined, tools: StartTools) {
    this.service = service;
    this.#tools = tools;
    this.plan = this.#plan(url);
    this.gate = this.plan.then(({ request }) => this.#launch(request), asError);
  }

  /** Whether it starts what is wanted of the service now. */
  isOf({ generation, wish, version }: ManagedService): boolean {
    return this.service.generation === generation && this.service.wish === wish && this.service.version === version;
  }

  /** Takes everything back. */
  async abandon(): Promise<void> {
    const { host, leftovers, onFailure } = this.#tools;
    try {
      const waiting = await this.gate;
      if (!(waiting instanceof Error)) await waiting.launched.abandon();
      await leftovers.forget(host.runDir(this.instanceId));
    } catch (error) {
      onFailure(error, this.service.name);
    } finally {
      host.releasePort(this.instanceId);
    }
  }

  /** Everything about a start that can go wrong before it; what does is told as its end. */
  async #plan(before: string | undefined): Promise<Plan> {
    const { service, instanceId } = this;
    const { host, tokens } = this.#tools;
    let url = before;
    try {
      url = await host.chooseUrl(service, instanceId);
      const { secret, token } = await tokens.forInstance(service, instanceId);
      const request = await host.prepare(service, instanceId, url, secret);
      return { url, token, request, unenforced: request.unenforced };
    } catch (error) {
      // The database is away: that says nothing of the service.
      if (error instanceof AppError && error.code === "unavailable") {
        host.releasePort(instanceId);
        throw error;
      }
      return { url, token: undefined, request: asError(error), unenforced: "" };
    }
  }

  async #launch(request: LaunchRequest | Error): Promise<AtGate | Error> {
    if (request instanceof Error) return request;
    const { launcher, reach } = this.#tools;
    let launched: Launched | undefined;
    try {
      launched = await launcher.launch(request);
      reach("forked");
      recordIdentity(launched.runDir, launched.identity);
      reach("identity_recorded");
      return { launched, request };
    } catch (error) {
      await launched?.abandon();
      return asError(error);
    }
  }
}

function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}
