import type { Logger } from "pino";
import { LineBudget } from "../domain/line-budget.ts";
import type { StatementWatch } from "./postgres.ts";

/** Writes down the statements that took long: which, and how long, never with what values. Of many at once a few lines tell. */
export class SlowStatements implements StatementWatch {
  readonly #log: Logger;
  readonly #slowMs: number;
  readonly #budget = new LineBudget();
  #count = 0;

  /** `slowMs` 0: none is slow. */
  constructor({ log, slowMs }: { readonly log: Logger; readonly slowMs: number }) {
    this.#log = log;
    this.#slowMs = slowMs;
  }

  /** All that there were, written down or not. */
  get count(): number {
    return this.#count;
  }

  finished(statement: string, durationMs: number): void {
    if (this.#slowMs === 0 || durationMs < this.#slowMs) return;
    this.#count += 1;
    const line = this.#budget.take();
    if (line !== undefined) this.#log.warn({ statement: beginning(statement), durationMs, ...line }, "slow statement");
  }
}

const wordsShown = 8;

function beginning(statement: string): string {
  return statement.trim().split(/\s+/, wordsShown).join(" ");
}
