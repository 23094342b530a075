import type { Pump } from "../../src/rpc/handler.ts";

/** What a handler hands on, for a test that asks for it message by message. */
export async function* pumped<T>(pump: Pump<T>): AsyncGenerator<T, void, undefined> {
  const waiting: { readonly item: T; readonly taken: () => void }[] = [];
  let wake: () => void = () => undefined;
  let outcome: { readonly error: unknown } | "ended" | undefined;
  const take = (item: T) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    waiting.push({ item, taken: resolve });
    wake();
    return promise;
  };
  const end = (how: typeof outcome) => {
    outcome = how;
    wake();
  };
  pump(take).then(
    () => end("ended"),
    (error: unknown) => end({ error }),
  );
  for (;;) {
    const next = waiting.shift();
    if (next !== undefined) {
      yield next.item;
      next.taken();
    } else if (outcome === undefined) {
      await new Promise<void>((resolve) => (wake = resolve));
    } else if (outcome === "ended") {
      return;
    } else {
      throw outcome.error;
    }
  }
}
