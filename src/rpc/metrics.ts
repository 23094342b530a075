import type { DescMethod } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import { ErrorReasonSchema } from "../../gen/steward/v1/error_pb.ts";

const labelNames = ["grpc_type", "grpc_service", "grpc_method"];

/** Stands for the service and the method of calls that no method was found for: what clients make up shall not become series. */
const unknown = "unknown";

/** What Prometheus sees of the calls, under the names of go-grpc-prometheus, so that existing dashboards fit. */
export class Metrics {
  readonly registry: Registry;
  /** The calls of methods that there are not. */
  readonly unknownMethod: MethodMetrics;
  slowCalls = 0;
  readonly #seconds: Histogram;
  readonly #methods: MethodMetrics[] = [];
  readonly #reasons = new Map(ErrorReasonSchema.values.map(({ name }) => [name.replace("ERROR_REASON_", ""), 0]));

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
    this.#reasonCounter();
    this.#slowCounter();
    this.unknownMethod = this.#method("unary", unknown, unknown);
    if (processMetrics) collectDefaultMetrics({ register: registry });
  }

  /** The counters of one method, there from the start with the value 0 for every code. */
  of({ methodKind, parent, name }: DescMethod): MethodMetrics {
    return this.#method(methodKind.replace("streaming", "stream"), parent.typeName, name);
  }

  /** A call failed for a reason of the one table of errors; ends that the client brought about have none. */
  failed(reason: string): void {
    this.#reasons.set(reason, (this.#reasons.get(reason) ?? 0) + 1);
  }

  #method(type: string, service: string, name: string): MethodMetrics {
    const labels = { grpc_type: type, grpc_service: service, grpc_method: name };
    const metrics = new MethodMetrics(labels, this.#seconds);
    this.#seconds.zero(labels);
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
        for (const { labels, endedCalls } of methods)
          endedCalls.forEach((count, code) => this.inc({ ...labels, grpc_code: codeNames[code] ?? "" }, count));
      },
    });
  }

  #reasonCounter(): void {
    const reasons = this.#reasons;
    new Counter({
      name: "steward_rpc_errors_total",
      help: "Calls that failed, by the reason that their error has.",
      labelNames: ["reason"],
      registers: [this.registry],
      collect() {
        this.reset();
        for (const [reason, count] of reasons) this.inc({ reason }, count);
      },
    });
  }

  #slowCounter(): void {
    const slowCalls = () => this.slowCalls;
    new Counter({
      name: "steward_rpc_slow_calls_total",
      help: "Calls slower than --slow-call; streams and waits are none.",
      registers: [this.registry],
      collect() {
        this.reset();
        this.inc(slowCalls());
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
  /** By the number of the code. */
  readonly endedCalls: number[] = codeNames.map(() => 0);
  startedCalls = 0;
  openCalls = 0;
  receivedMessages = 0;
  sentMessages = 0;
  readonly #seconds: Histogram;

  constructor(labels: Readonly<Record<string, string>>, seconds: Histogram) {
    this.labels = labels;
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
    this.endedCalls[code] = (this.endedCalls[code] ?? 0) + 1;
    this.#seconds.observe(this.labels, durationMs / 1000);
  }
}

/** By their numbers, 0 to 16. */
const codeNames: readonly string[] = ["OK", ...Array.from({ length: 16 }, (_, index) => Code[index + 1] ?? "")];
