import { Counter, Gauge, Histogram, type Registry } from "prom-client";
import type { FollowerKind } from "./follower.ts";

/** What there is to tell of a feed at the moment of being asked. */
export interface FeedFigures {
  readonly head: bigint;
  readonly ring: { readonly start: bigint; readonly size: number; readonly bytes: number };
}

/** What Prometheus sees of the feed and of who follows it. */
export class FeedMetrics {
  readonly #figures: FeedFigures;
  readonly #registry: Registry;
  readonly #kinds = new Map<string, FollowerKind>();
  readonly #read: Counter<"type">;
  readonly #failures: Counter;
  readonly #catchUps: Counter;
  readonly #seconds: Histogram;

  constructor(registry: Registry, figures: FeedFigures) {
    this.#figures = figures;
    this.#registry = registry;
    const registers = [registry];
    this.#read = new Counter({
      name: "steward_feed_events_total",
      help: "Events that were appended to the log since the start, by any server, by type.",
      labelNames: ["type"],
      registers,
    });
    this.#failures = new Counter({
      name: "steward_feed_read_failures_total",
      help: "Reads of the log that failed and were tried again.",
      registers,
    });
    this.#catchUps = new Counter({
      name: "steward_feed_catch_up_reads_total",
      help: "Reads of the log for a follower that is behind what is kept in memory.",
      registers,
    });
    this.#seconds = new Histogram({
      name: "steward_feed_wakeup_seconds",
      help: "Time from a wake-up to its events being there for followers.",
      buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
      registers,
    });
    this.#gauge("steward_feed_revision", "The newest revision that followers can see.", () => Number(figures.head));
    this.#gauge(
      "steward_feed_ring_events",
      "How many of the newest events are kept in memory.",
      () => figures.ring.size,
    );
    this.#gauge(
      "steward_feed_ring_bytes",
      "How much memory the newest events hold, as estimated.",
      () => figures.ring.bytes,
    );
    this.#followers();
  }

  /** Those who follow for the same reason: who begins is to be added, who leaves taken away. */
  kindOf(follower: string): FollowerKind {
    const kind = this.#kinds.get(follower) ?? { open: new Set(), delivered: 0 };
    this.#kinds.set(follower, kind);
    return kind;
  }

  /** Events were read; since the wake-up it took so long. */
  appended(events: readonly { readonly body: { readonly type: string } }[], sinceWakeUpMs: number): void {
    for (const { body } of events) this.#read.inc({ type: body.type });
    this.#seconds.observe(sinceWakeUpMs / 1_000);
  }

  readFailed(): void {
    this.#failures.inc();
  }

  caughtUp(): void {
    this.#catchUps.inc();
  }

  #followers(): void {
    this.#ofEachKind(
      Gauge,
      "steward_feed_followers",
      "Who follows: watches, waits and keepers.",
      ({ open }) => open.size,
    );
    this.#ofEachKind(
      Gauge,
      "steward_feed_followers_behind",
      "Followers that are behind what is kept in memory and are given it from the database.",
      ({ open }) => [...open].filter(({ position }) => position < this.#figures.ring.start).length,
    );
    this.#ofEachKind(
      Gauge,
      "steward_feed_lag_revisions",
      "How far the slowest follower is behind the newest revision.",
      ({ open }) => [...open].reduce((most, { position }) => Math.max(most, Number(this.#figures.head - position)), 0),
    );
    this.#ofEachKind(
      Counter,
      "steward_feed_delivered_events_total",
      "Events that were handed to followers.",
      ({ delivered }) => delivered,
    );
  }

  #ofEachKind(
    Metric: typeof Gauge<"follower"> | typeof Counter<"follower">,
    name: string,
    help: string,
    read: (kind: FollowerKind) => number,
  ): void {
    const kinds = this.#kinds;
    new Metric({
      name,
      help,
      labelNames: ["follower"],
      registers: [this.#registry],
      collect() {
        this.reset();
        for (const [follower, kind] of kinds) this.inc({ follower }, read(kind));
      },
    });
  }

  #gauge(name: string, help: string, read: () => number): void {
    new Gauge({
      name,
      help,
      registers: [this.#registry],
      collect() {
        this.set(read());
      },
    });
  }
}
