import { setTimeout as delay } from "node:timers/promises";
import { ConnectError } from "@connectrpc/connect";
import type { Cursor } from "../../../gen/steward/v1/event_pb.ts";
import { eventually } from "../../support/eventually.ts";
import { readRefusal } from "../refusal.ts";
import type { Clients } from "../transports.ts";
import type { Recording, ToldMessage, ToldStream, Watched } from "./promises.ts";
import { eventsTold, servicesTold } from "./seen.ts";
import type { EventView, ServiceView } from "./views.ts";

export type Place = Pick<Cursor, "storeUid" | "revision">;

export interface WatcherOptions {
  readonly name: string;
  readonly view: ({ readonly of: "events" } & EventView) | ({ readonly of: "services" } & ServiceView);
  /** Where it begins; undefined: from now on, or with a snapshot. */
  readonly after: Place | undefined;
  /** How long it looks at each message before it takes the next. */
  readonly lookMs: number;
  /** Asked for each stream: a connection that was reset does not hold up the next. */
  readonly clients: () => Clients;
}

/** A client that watches as a good one does, with nothing of Steward's own, and keeps all that it is told: what breaks is resumed after the last cursor. */
export class Watcher implements AsyncDisposable {
  readonly options: WatcherOptions;
  readonly #streams: (Omit<ToldStream, "messages"> & { readonly messages: ToldMessage[] })[] = [];
  readonly #over = new AbortController();
  readonly #watching: Promise<void>;
  #cursor: Place | undefined;

  constructor(options: WatcherOptions) {
    this.options = options;
    this.#cursor = options.after;
    this.#watching = this.#watch();
  }

  /** Resolves once it has been told everything up to the revision, by events or by the progress that is due every second. */
  async reached(revision: bigint): Promise<void> {
    const told = () => this.#cursor?.revision ?? -1n;
    await eventually(() => told() >= revision, { timeoutMs: 60_000 }).catch((cause: unknown) => {
      throw new Error(`${this.options.name} was told up to ${told()} and no more, though there is ${revision}`, {
        cause,
      });
    });
  }

  /** The cursors that it was given, in their order. */
  get cursors(): bigint[] {
    return this.#streams.flatMap(({ messages }) => messages.flatMap(({ cursor }) => cursor ?? []));
  }

  get recording(): Recording {
    const { name, view } = this.options;
    const watched: Watched =
      view.of === "events"
        ? { of: "events", matches: view.matches, withServices: view.withServices === true }
        : { of: "services", matches: view.matches };
    return { watcher: name, watched, streams: this.#streams };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort();
    await this.#watching;
  }

  async #watch(): Promise<void> {
    const { signal } = this.#over;
    while (!signal.aborted) {
      const messages: ToldMessage[] = [];
      const after = this.#cursor;
      const end = await this.#listen(messages, after);
      this.#streams.push({ after: after?.revision, messages, end });
      await delay(100, undefined, { signal }).catch(() => undefined);
    }
  }

  /** One stream, to its end; returns the reason that the server gave for it. */
  async #listen(messages: ToldMessage[], after: Place | undefined): Promise<string | undefined> {
    const { signal } = this.#over;
    const { lookMs } = this.options;
    try {
      for await (const { told, cursor } of this.#stream(after)) {
        messages.push(told);
        if (cursor !== undefined) this.#cursor = cursor;
        if (lookMs > 0) await delay(lookMs, undefined, { signal });
      }
      return signal.aborted ? undefined : "none";
    } catch (error) {
      if (signal.aborted) return undefined;
      // Only what Steward says has details; else the connection broke.
      return error instanceof ConnectError && error.details.length > 0 ? readRefusal(error).reason : undefined;
    }
  }

  async *#stream(after: Place | undefined): AsyncGenerator<{ told: ToldMessage; cursor: Cursor | undefined }> {
    const { view, clients } = this.options;
    const { signal } = this.#over;
    const request = {
      filter: view.filter,
      progressInterval: { seconds: 1n },
      ...(after === undefined ? {} : { after }),
    };
    if (view.of === "services") {
      for await (const response of clients().registry.watchServices(request, { signal }))
        yield { told: servicesTold(response), cursor: response.cursor };
      return;
    }
    const { types = [], withServices: includeServices = false } = view;
    for await (const response of clients().supervisor.watchEvents(
      { ...request, types: [...types], includeServices },
      { signal },
    ))
      yield { told: eventsTold(response), cursor: response.cursor };
  }
}
