/** Numbers that look random and are the same for the same seed (mulberry32), so that what failed can be done again. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** From 0 up to, but not including, 1. */
  fraction(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** From `least` to `greatest`, both included. */
  integer(least: number, greatest: number): number {
    return least + Math.floor(this.fraction() * (greatest - least + 1));
  }

  /** True in so many of a hundred cases. */
  chance(percent: number): boolean {
    return this.fraction() * 100 < percent;
  }

  one<T>(things: readonly T[]): T {
    const thing = things[this.integer(0, things.length - 1)];
    if (thing === undefined) throw new Error("there is nothing to choose from");
    return thing;
  }

  bytes(least: number, greatest: number): Buffer {
    const bytes = Buffer.allocUnsafe(this.integer(least, greatest));
    for (let index = 0; index < bytes.length; index += 1) bytes[index] = this.integer(0, 255);
    return bytes;
  }

  /** The bytes with some of them changed, left out, put twice, or cut off. */
  damaged(bytes: Buffer, times = this.integer(1, 8)): Buffer {
    let result = Buffer.from(bytes);
    for (let time = 0; time < times && result.length > 0; time += 1) {
      const at = this.integer(0, result.length - 1);
      const until = Math.min(result.length, at + this.integer(1, 16));
      const [before, hit, after] = [result.subarray(0, at), result.subarray(at, until), result.subarray(until)];
      const instead = this.one([
        () => this.bytes(hit.length, hit.length),
        () => Buffer.alloc(0),
        () => Buffer.concat([hit, hit]),
        () => this.bytes(0, 32),
      ]);
      result = this.chance(5) ? before : Buffer.concat([before, instead(), after]);
    }
    return result;
  }
}
