import { AppError } from "../domain/errors.ts";
import type { Principal } from "../domain/principal.ts";

/** Counts open streams, so that one client that forgets to close its own cannot take the place of all others. */
export class StreamQuota {
  readonly #ofOne: number;
  readonly #ofAll: number;
  readonly #taken = new Map<string, number>();
  #total = 0;

  constructor({ streamsPerPrincipal, streams }: { streamsPerPrincipal: number; streams: number }) {
    this.#ofOne = streamsPerPrincipal;
    this.#ofAll = streams;
  }

  /** Takes a place and returns how to give it back (once). Throws QUOTA_EXCEEDED. */
  take({ kind, name }: Principal): () => void {
    const holder = `${kind} ${name}`;
    const taken = this.#taken.get(holder) ?? 0;
    if (taken >= this.#ofOne) throw exceeded(`${name} has ${taken} streams open`, this.#ofOne);
    if (this.#total >= this.#ofAll) throw exceeded(`${this.#total} streams are open`, this.#ofAll);
    this.#taken.set(holder, taken + 1);
    this.#total += 1;
    return () => this.#giveBack(holder);
  }

  #giveBack(holder: string): void {
    const left = (this.#taken.get(holder) ?? 1) - 1;
    if (left > 0) this.#taken.set(holder, left);
    else this.#taken.delete(holder);
    this.#total -= 1;
  }
}

function exceeded(fact: string, limit: number): AppError {
  return new AppError("resource_exhausted", "QUOTA_EXCEEDED", `${fact}, the limit is ${limit}`, {
    metadata: { limit: String(limit) },
    retryAfterMs: 5000,
  });
}
