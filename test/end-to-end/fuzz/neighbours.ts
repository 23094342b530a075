import { randomUUID } from "node:crypto";
import { createStewardClient } from "../../../src/client.ts";
import { external } from "../bad-requests.ts";
import { EventFollower } from "../event-follower.ts";
import type { TestAddresses } from "../harness.ts";
import { type Clients, clientsOf, transports } from "../transports.ts";

/** Clients that behave, one for each way into the server: they change things, read them back and watch, as long as they are let. */
export class Neighbours implements AsyncDisposable {
  /** What went wrong for any of them. */
  readonly failures: unknown[] = [];
  /** How often each was served, by its way in. */
  readonly served = new Map<string, number>();
  readonly followers: EventFollower[];
  readonly #close: () => void;
  readonly #working: Promise<unknown>;
  #isOver = false;

  constructor(addresses: TestAddresses, socket: string, token: string) {
    const local = createStewardClient({ address: `unix:${socket}`, token });
    const all: [string, Clients][] = transports.map((name) => [name, clientsOf(name, addresses, token)]);
    all.push(["the Unix socket", local]);
    this.#close = () => local.close();
    this.followers = all.map(([, clients]) => new EventFollower(() => clients));
    this.#working = Promise.all(all.map(([name, clients]) => this.#work(name, clients)));
  }

  /** Resolves when each has finished what it was at. */
  async rest(): Promise<void> {
    this.#isOver = true;
    await this.#working;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.rest();
    await Promise.all(this.followers.map((follower) => follower[Symbol.asyncDispose]()));
    this.#close();
  }

  async #work(name: string, { registry }: Clients): Promise<void> {
    // Each failure is one too many; the rest would say the same.
    while (!this.#isOver && this.failures.length < 10) {
      try {
        const service = `good-${randomUUID()}`;
        const { revision } = await registry.create({ serviceId: service, service: { spec: external() } });
        await registry.get({ name: service, minRevision: revision });
        await registry.delete({ name: service });
        this.served.set(name, (this.served.get(name) ?? 0) + 1);
      } catch (error) {
        this.failures.push([name, error]);
      }
    }
  }
}
