import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { create, toBinary } from "@bufbuild/protobuf";
import { WatchEventsRequestSchema } from "../gen/steward/v1/supervisor_pb.ts";
import type { StewardClient } from "../src/client.ts";
import { framed } from "./load.ts";

/** What the program with the watchers is told: where to watch, as whom, and how the protocol asks for it. */
export interface WatchersOrder {
  readonly origin: string;
  readonly count: number;
  /** Used in turn: one principal may have so many streams and no more. None: nobody asks for one. */
  readonly tokens: readonly string[];
  readonly headers: Readonly<Record<string, string>>;
  /** The request as it is sent, in base64. */
  readonly body: string;
}

export type WatchProtocol = "grpc" | "connect";

/** Any number of open watches of events, held by a process of its own. */
export class Watchers implements AsyncDisposable {
  readonly #process: ChildProcess;

  private constructor(process: ChildProcess) {
    this.#process = process;
  }

  /** Resolves when every watch stands. */
  static async open({ origin, count, tokens, protocol }: WatchersTarget): Promise<Watchers> {
    const body = framed(toBinary(WatchEventsRequestSchema, create(WatchEventsRequestSchema))).toString("base64");
    const order: WatchersOrder = { origin, count, tokens, headers: headersOf[protocol], body };
    const child = fork(fileURLToPath(new URL("./programs/watchers.ts", import.meta.url)), [JSON.stringify(order)]);
    const watchers = new Watchers(child);
    await watchers.#told();
    return watchers;
  }

  /** Resolves when each of them has been told of everything up to the revision. */
  async reached(revision: bigint): Promise<void> {
    this.#process.send(String(revision));
    await this.#told();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.exitCode !== null) return;
    this.#process.kill();
    await once(this.#process, "exit");
  }

  async #told(): Promise<void> {
    const ended = new AbortController();
    const exit = once(this.#process, "exit", { signal: ended.signal }).then(() =>
      Promise.reject(new Error("the watchers are gone")),
    );
    await Promise.race([once(this.#process, "message"), exit]).finally(() => ended.abort());
  }
}

interface WatchersTarget {
  readonly origin: string;
  readonly count: number;
  readonly tokens: readonly string[];
  readonly protocol: WatchProtocol;
}

const headersOf: Readonly<Record<WatchProtocol, Readonly<Record<string, string>>>> = {
  grpc: { "content-type": "application/grpc+proto", te: "trailers" },
  connect: { "content-type": "application/connect+proto", "connect-protocol-version": "1" },
};

const watchersAToken = 450;

/** Tokens enough for so many watchers, each of a service that may do everything. */
export async function tokensFor({ registry }: StewardClient, count: number): Promise<readonly string[]> {
  const tokens: string[] = [];
  for (let taken = 0; taken < count; taken += watchersAToken) {
    const name = `watcher-${tokens.length}`;
    await registry.create({
      serviceId: name,
      service: { spec: { admin: true, kind: { case: "external", value: {} } } },
    });
    const { secret } = await registry.issueToken({ service: name });
    tokens.push(secret);
  }
  return tokens;
}
