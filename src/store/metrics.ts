import { Counter, Gauge, Histogram, type Registry } from "prom-client";

/** What there is to tell of the store at the moment of being asked. */
export interface StoreFigures {
  readonly connections: number;
  readonly idleConnections: number;
  readonly mostConnections: number;
  readonly waitingForConnection: number;
  readonly isListening: boolean;
  readonly listenerReconnects: number;
  readonly notifications: number;
  readonly slowStatements: number;
  readonly waitingFacts: number;
  /** Asks the database; rejects when it does not answer. */
  bounds(): Promise<Bounds>;
}

interface Bounds {
  readonly head: bigint;
  readonly oldest: bigint;
}

/** Whoever asks for the metrics does not wait longer for a database that does not answer. */
const patienceMs = 1_000;

/** What Prometheus sees of the store. */
export class StoreMetrics {
  readonly #registry: Registry;
  readonly #transactions: Counter<"outcome">;
  readonly #seconds: Histogram;
  readonly #retries: Counter;
  #look: Promise<Bounds | undefined> | undefined;

  constructor(registry: Registry, figures: StoreFigures) {
    this.#registry = registry;
    const registers = [registry];
    this.#transactions = new Counter({
      name: "steward_store_transactions_total",
      help: "Write transactions, by what became of them.",
      labelNames: ["outcome"],
      registers,
    });
    for (const outcome of ["committed", "failed"] as const) this.#transactions.inc({ outcome }, 0);
    this.#seconds = new Histogram({
      name: "steward_store_transaction_seconds",
      help: "Time of a write transaction, with its wait for a connection and its repetitions.",
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers,
    });
    this.#retries = new Counter({
      name: "steward_store_transaction_retries_total",
      help: "Repetitions of write transactions after a deadlock or a serialization failure.",
      registers,
    });
    this.#pool(figures);
    this.#listener(figures);
    this.#database(figures);
    this.#counter(
      "steward_store_slow_statements_total",
      "Statements slower than --slow-query.",
      () => figures.slowStatements,
    );
    this.#gauge("steward_store_facts_waiting", "Facts of keepers that wait to be written.", () => figures.waitingFacts);
  }

  /** Runs a write transaction, which says when it is repeated. */
  async timed<T>(run: (onRetry: () => void) => Promise<T>): Promise<T> {
    const stop = this.#seconds.startTimer();
    try {
      const value = await run(() => this.#retries.inc());
      this.#transactions.inc({ outcome: "committed" });
      return value;
    } catch (error) {
      this.#transactions.inc({ outcome: "failed" });
      throw error;
    } finally {
      stop();
    }
  }

  #pool(figures: StoreFigures): void {
    new Gauge({
      name: "steward_store_connections",
      help: "Connections to the database, the listener's aside.",
      labelNames: ["state"],
      registers: [this.#registry],
      collect() {
        this.set({ state: "idle" }, figures.idleConnections);
        this.set({ state: "in_use" }, figures.connections - figures.idleConnections);
      },
    });
    this.#gauge("steward_store_connections_max", "How many connections there may be.", () => figures.mostConnections);
    this.#gauge(
      "steward_store_waiting",
      "Reads and writes that wait for a connection.",
      () => figures.waitingForConnection,
    );
  }

  #listener(figures: StoreFigures): void {
    this.#gauge("steward_store_listening", "1 while the database tells of new events; else they are polled for.", () =>
      Number(figures.isListening),
    );
    this.#counter(
      "steward_store_listener_reconnects_total",
      "How often the listener's connection was opened again.",
      () => figures.listenerReconnects,
    );
    this.#counter("steward_store_notifications_total", "Notifications of new events.", () => figures.notifications);
  }

  #database(figures: StoreFigures): void {
    const ask = () => this.#ask(figures);
    this.#gauge("steward_store_up", "1 if the database answers.", async () => Number((await ask()) !== undefined));
    this.#gauge("steward_store_revision", "The newest revision in the database, as it last answered.", async () =>
      Number((await ask())?.head ?? Number.NaN),
    );
    this.#gauge("steward_store_oldest_revision", "The oldest revision that a watch can resume after.", async () =>
      Number((await ask())?.oldest ?? Number.NaN),
    );
  }

  /** One question for all that ask at the same time. */
  #ask(figures: StoreFigures): Promise<Bounds | undefined> {
    this.#look ??= answerWithin(figures.bounds(), patienceMs).finally(() => {
      this.#look = undefined;
    });
    return this.#look;
  }

  #gauge(name: string, help: string, read: () => number | Promise<number>): void {
    new Gauge({
      name,
      help,
      registers: [this.#registry],
      async collect() {
        const value = await read();
        // What is not known now stays what it was.
        if (!Number.isNaN(value)) this.set(value);
      },
    });
  }

  #counter(name: string, help: string, read: () => number): void {
    new Counter({
      name,
      help,
      registers: [this.#registry],
      collect() {
        this.reset();
        this.inc(read());
      },
    });
  }
}

async function answerWithin<T>(answer: Promise<T>, ms: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, ms, undefined);
  });
  return Promise.race([answer.catch(() => undefined), late]).finally(() => clearTimeout(timer));
}
