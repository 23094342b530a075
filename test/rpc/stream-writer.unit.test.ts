import { Writable } from "node:stream";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { StallTimer } from "../../src/rpc/stalled-watch.ts";
import { StreamWriter } from "../../src/rpc/stream-writer.ts";

beforeEach(() => vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] }));
afterEach(() => vi.useRealTimers());

const stalledMs = 30_000;

test("a client that takes nothing has stalled", () => {
  const { writer, stalls } = setUp();
  void writer.write(Buffer.alloc(20_000));

  vi.advanceTimersByTime(stalledMs - 1);
  expect(stalls()).toBe(0);
  vi.advanceTimersByTime(1);

  expect(stalls()).toBe(1);
});

test("a client has stalled once", () => {
  const { writer, stalls } = setUp();
  void writer.write(Buffer.alloc(20_000));

  vi.advanceTimersByTime(10 * stalledMs);

  expect(stalls()).toBe(1);
});

test("a client that takes a large message piece by piece has not stalled, however long it takes", async () => {
  const { writer, client, stalls } = setUp();
  const large = Buffer.alloc(1_000_000, "steward");
  const written = writer.write(large);

  while (client.taken().length < large.length) {
    vi.advanceTimersByTime(stalledMs - 1);
    await client.take();
  }
  await written;
  vi.advanceTimersByTime(10 * stalledMs);

  expect(stalls()).toBe(0);
  expect(client.taken().equals(large)).toBe(true);
});

test("a client has not stalled while nothing waits for it", async () => {
  const { writer, client, stalls } = setUp();
  const written = writer.write(Buffer.alloc(20_000));
  await client.take();
  await written;

  vi.advanceTimersByTime(10 * stalledMs);

  expect(stalls()).toBe(0);
});

test("the end of a call ends the wait, and leaves a message whole that is half written", async () => {
  const { writer, client, stalls, controller } = setUp();
  const large = Buffer.alloc(1_000_000, "steward");
  const written = writer.write(large);
  await client.take();

  controller.abort();
  await written;
  while (client.taken().length < large.length) await client.take();
  vi.advanceTimersByTime(10 * stalledMs);

  expect(client.taken().equals(large)).toBe(true);
  expect(stalls()).toBe(0);
});

function setUp() {
  const client = new SlowClient();
  const controller = new AbortController();
  let stalls = 0;
  const stall = new StallTimer(client, stalledMs, () => (stalls += 1));
  const writer = new StreamWriter(client, controller.signal, stall);
  return { client, controller, writer, stalls: () => stalls };
}

/** Takes what is written when it is told to. */
class SlowClient extends Writable {
  readonly #taken: Buffer[] = [];
  #goOn: (() => void) | undefined;

  constructor() {
    super({ highWaterMark: 16 * 1024 });
  }

  override _write(chunk: Buffer, _encoding: string, callback: () => void): void {
    this.#goOn = () => {
      this.#taken.push(chunk);
      callback();
    };
  }

  taken(): Buffer {
    return Buffer.concat(this.#taken);
  }

  /** Resolves when the writer has been told. */
  async take(): Promise<void> {
    this.#goOn?.();
    await new Promise(setImmediate);
  }
}
