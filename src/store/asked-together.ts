/**
 * Reads for many at once: who asks while a turn of the event loop lasts is answered by one read that begins after it. On a busy server that is
 * most of the cost of a small read; alone, one waits for nobody.
 */
export class AskedTogether<K, Answer> {
  readonly #read: (keys: readonly K[]) => Promise<(key: K) => Answer>;
  #keys: Set<K> | undefined;
  #answers: Promise<(key: K) => Answer> | undefined;

  /** `read` takes what was asked for, each once, and returns how to find the answer to each. */
  constructor(read: (keys: readonly K[]) => Promise<(key: K) => Answer>) {
    this.#read = read;
  }

  async ask(key: K): Promise<Answer> {
    this.#keys ??= new Set();
    this.#keys.add(key);
    this.#answers ??= this.#afterThisTurn();
    return (await this.#answers)(key);
  }

  async #afterThisTurn(): Promise<(key: K) => Answer> {
    await new Promise((resolve) => setImmediate(resolve));
    const keys = [...(this.#keys ?? [])];
    // From here on it would be too late: an answer may not be older than its question.
    this.#keys = undefined;
    this.#answers = undefined;
    return await this.#read(keys);
  }
}
