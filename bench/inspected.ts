import { once } from "node:events";
import type { TestSteward } from "../test/end-to-end/harness.ts";
import { eventually } from "../test/support/eventually.ts";

/** The environment of a server that can be looked into. */
export const inspectable = { NODE_OPTIONS: "--inspect=127.0.0.1:0" };

/** Looks into a running server by its debugger. */
export class Inspected implements Disposable {
  readonly #socket: WebSocket;
  readonly #answers = new Map<number, (result: unknown) => void>();
  #lastId = 0;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.addEventListener("message", ({ data }) => {
      const { id, result } = JSON.parse(String(data)) as { id: number; result: unknown };
      this.#answers.get(id)?.(result);
      this.#answers.delete(id);
    });
  }

  static async connect(steward: TestSteward): Promise<Inspected> {
    const address = await eventually(() => /ws:\/\/\S+/.exec(steward.log)?.[0]);
    const socket = new WebSocket(address);
    await once(socket, "open");
    return new Inspected(socket);
  }

  /** The bytes of the heap that are in use after a collection. */
  async heapBytes(): Promise<number> {
    await this.#ask("HeapProfiler.collectGarbage");
    const { usedSize } = (await this.#ask("Runtime.getHeapUsage")) as { usedSize: number };
    return usedSize;
  }

  [Symbol.dispose](): void {
    this.#socket.close();
  }

  #ask(method: string): Promise<unknown> {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    this.#lastId += 1;
    this.#answers.set(this.#lastId, resolve);
    this.#socket.send(JSON.stringify({ id: this.#lastId, method }));
    return promise;
  }
}
