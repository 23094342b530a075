import { Random } from "../../support/random.ts";
import { Assault, type Door, Held } from "./assault.ts";
import { http1Attacks } from "./http1-attacks.ts";
import { http2Attacks } from "./http2-attacks.ts";
import { messageAttacks } from "./message-attacks.ts";

const attacks = Object.entries({ ...http1Attacks, ...http2Attacks, ...messageAttacks });

export interface StormOptions {
  readonly seed: number;
  readonly doors: readonly Door[];
  readonly secret: string;
  /** Whether another attack shall begin, by its number. */
  readonly goesOn: (number: number) => boolean;
}

/** Attacks of every kind on every door, some at once. Each has a number, and with the seed that says all that it does. */
export class Storm {
  readonly #options: StormOptions;
  readonly #held = new Held();
  readonly #running = new Map<number, string>();
  #begun = 0;

  constructor(options: StormOptions) {
    this.#options = options;
  }

  /** How many attacks have begun. */
  get begun(): number {
    return this.#begun;
  }

  /** The attacks that are under way, to tell of when something broke. */
  get running(): readonly string[] {
    return [...this.#running].map(([number, name]) => `${number}: ${name}`);
  }

  /** Resolves when all is over and every connection is closed. */
  async rage(): Promise<void> {
    try {
      await Promise.all(Array.from({ length: lanes }, () => this.#lane()));
    } finally {
      this.#held.release();
    }
  }

  async #lane(): Promise<void> {
    while (this.#options.goesOn(this.#begun)) await this.#attack(this.#begun++);
  }

  async #attack(number: number): Promise<void> {
    const { seed, doors, secret } = this.#options;
    const random = new Random(seed * 1_000_003 + number);
    // Every attack has its turn at every door before any has another.
    const [name, attack] = attacks[number % attacks.length] ?? random.one(attacks);
    const door = doors[Math.floor(number / attacks.length) % doors.length] ?? random.one(doors);
    this.#running.set(number, `${name}, at ${door.name}`);
    await attack(new Assault({ random, door, secret, held: this.#held }));
    this.#running.delete(number);
  }
}

const lanes = 4;
