import { setTimeout as delay } from "node:timers/promises";
import { ConnectError } from "@connectrpc/connect";
import type { Cursor, Event } from "../../gen/steward/v1/event_pb.ts";
import { eventually } from "../support/eventually.ts";
import { type Refusal, readRefusal } from "./refusal.ts";
import type { Clients } from "./transports.ts";

/** A client that follows the log from its beginning as a good one does: a stream that breaks is resumed after the last cursor. */
export class EventFollower implements AsyncDisposable {
  readonly events: Event[] = [];
  /** How its streams ended: as Steward told, or undefined where the connection was cut. */
  readonly breaks: (Refusal | undefined)[] = [];
  readonly #clients: () => Clients;
  readonly #over = new AbortController();
  readonly #following: Promise<void>;
  #cursor: Pick<Cursor, "storeUid" | "revision"> = { storeUid: "", revision: 0n };

  /** `clients` is asked for each stream: a server that started again may have other ports. */
  constructor(clients: () => Clients) {
    this.#clients = clients;
    this.#following = this.#follow();
  }

  /** Resolves once it has been told everything up to the revision. */
  async reached(revision: bigint): Promise<void> {
    await eventually(() => this.#cursor.revision >= revision, { timeoutMs: 30_000 });
  }

  /** Where each event stands in the log, in the order of their arrival. */
  get places(): string[] {
    return this.events.map(({ revision, index }) => `${revision}.${index}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort();
    await this.#following;
  }

  async #follow(): Promise<void> {
    const { signal } = this.#over;
    while (!signal.aborted) {
      try {
        const request = { after: this.#cursor, progressInterval: { seconds: 1n } };
        for await (const { cursor, message } of this.#clients().supervisor.watchEvents(request, { signal })) {
          if (message.case === "batch") this.events.push(...message.value.events);
          if (cursor !== undefined) this.#cursor = cursor;
        }
      } catch (error) {
        if (signal.aborted) return;
        this.breaks.push(wasTold(error) ? readRefusal(error) : undefined);
        await delay(50, undefined, { signal }).catch(() => undefined);
      }
    }
  }
}

/** Whether Steward itself ended the stream; else the connection was cut, or could not be opened. */
function wasTold(error: unknown): boolean {
  return error instanceof ConnectError && error.details.length > 0;
}

/** The whole log as a client that comes now is told it, and that its revisions have no gap. */
export async function wholeLog(clients: () => Clients): Promise<EventFollower> {
  const { revision } = await clients().registry.list({});
  const follower = new EventFollower(clients);
  try {
    await follower.reached(revision);
    const revisions = new Set(follower.events.map((event) => event.revision));
    const missing = Array.from({ length: Number(revision) }, (_, index) => BigInt(index + 1)).filter(
      (each) => !revisions.has(each),
    );
    if (missing.length > 0) throw new Error(`the log has no revision ${missing.join(", ")}`);
    return follower;
  } finally {
    await follower[Symbol.asyncDispose]();
  }
}
