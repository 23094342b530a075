import type { DescMethod } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";

const labelNames = ["grpc_type", "grpc_service", "grpc_method"];

/** What Prometheus sees of the calls, under the names of go-grpc-prometheus, so that existing dashboards fit. */
export class Metrics {
  readonly registry: Registry;
  readonly #seconds: Histogram;
  readonly #methods: MethodMetrics[] = [];

  /** `processMetrics` adds the memory, CPU and event loop of this process. */
  constructor({
    registry = new Registry(),
    processMetrics = false,
  }: { registry?: Registry; processMetrics?: boolean } = {}) {
    this.registry = registry;
    this.#seconds = new Histogram({
      name: "grpc_server_handling_seconds",
      help: "Time from the headers of a call to its end; of a stream, to the end of the stream.",
      labelNames,
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers: [registry],
    });
    this.#counter("grpc_server_started_total", "Calls begun.", (method) => method.startedCalls);
    this.#counter("grpc_server_msg_received_total", "Request messages.", (method) => method.receivedMessages);
    this.#counter("grpc_server_msg_sent_total", "Response messages.", (method) => method.sentMessages);
    this.#handledCounter();
    this.#openGauge();
    if (processMetrics) collectDefaultMetrics({ register: registry });
  }

  /** The counters of one method, there from the start with the value 0. */
  of(method: DescMethod): MethodMetrics {
    const metrics = new MethodMetrics(method, this.#seconds);
    this.#methods.push(metrics);
    return metrics;
  }

  // A call counts in plain numbers; they become series only when somebody asks.
  #counter(name: string, help: string, valueOf: (method: MethodMetrics) => number): void {
    const methods = this.#methods;
    new Counter({
      name,
      help,
      labelNames,
      registers: [this.registry],
      collect() {
        this.reset();
        for (const method of methods) this.inc(method.labels, valueOf(method));
      },
    });
  }

  #handledCounter(): void {
    const methods = this.#methods;
    new Counter({
      name: "grpc_server_handled_total",
      help: "Calls ended, by code.",
      labelNames: [...labelNames, "grpc_code"],
      registers: [this.registry],
      collect() {
        this.reset();
        for (const { labels, endedCalls } of methods) {
          for (const [code, count] of endedCalls) this.inc({ ...labels, grpc_code: codeName(code) }, count);
        }
      },
    });
  }

  #openGauge(): void {
    const methods = this.#methods;
    new Gauge({
      name: "steward_rpc_open_calls",
      help: "Calls in flight, streams included.",
      labelNames,
      registers: [this.registry],
      collect() {
        for (const method of methods) this.set(method.labels, method.openCalls);
      },
    });
  }
}

/** One method's counters. */
export class MethodMetrics {
  readonly labels: Readonly<Record<string, string>>;
  readonly endedCalls = new Map<Code | 0, number>();
  startedCalls = 0;
  openCalls = 0;
  receivedMessages = 0;
  sentMessages = 0;
  readonly #seconds: Histogram;

  constructor({ methodKind, parent, name }: DescMethod, seconds: Histogram) {
    const type = methodKind.replace("streaming", "stream");
    this.labels = { grpc_type: type, grpc_service: parent.typeName, grpc_method: name };
    this.#seconds = seconds;
  }

  started(): void {
    this.startedCalls += 1;
    this.openCalls += 1;
  }

  received(): void {
    this.receivedMessages += 1;
  }

  sent(): void {
    this.sentMessages += 1;
  }

  /** 0 is OK. */
  handled(code: Code | 0, durationMs: number): void {
    this.openCalls -= 1;
    this.endedCalls.set(code, (this.endedCalls.get(code) ?? 0) + 1);
    this.#seconds.observe(this.labels, durationMs / 1000);
  }
}

function codeName(code: Code | 0): string {
  return code === 0 ? "OK" : Code[code];
}
