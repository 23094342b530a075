import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import type { ServiceSpecSchema } from "../../../gen/steward/v1/service_pb.ts";
import { external, managed } from "../bad-requests.ts";
import { type Refusal, readRefusal } from "../refusal.ts";
import type { Clients } from "../transports.ts";
import type { Answer } from "./answers.ts";
import { managedNames, names, type Write } from "./plan.ts";

/** What is said for a while only: the request is to be sent again. */
const passing: ReadonlySet<string> = new Set(["STORE_UNAVAILABLE", "SERVER_DRAINING"]);

const patienceMs = 60_000;

/** A client that writes as a good one does: what is not answered it sends again, the same, until it is. */
export class Writer {
  readonly #connect: () => Clients;
  #clients: Clients;

  constructor(connect: () => Clients) {
    this.#connect = connect;
    this.#clients = connect();
  }

  /** Does one write of the plan; `serial` is its number there. Returns what was answered, of a request sent twice both times. */
  async perform(write: Write, serial: number): Promise<Answer[]> {
    const requestId = randomUUID();
    const base = {
      request: `${write.kind} ${write.name} ${write.manner}`,
      requestId,
      mayChangeNothing: !["create", "create failing", "label", "change command"].includes(write.kind),
    };
    const first = await this.#outcome(write, serial, requestId);
    // One that was refused is not remembered: it would be tried anew.
    const isRepeated = write.manner === "twice" && first.kind === "done";
    const outcomes = isRepeated ? [first, await this.#outcome(write, serial, requestId)] : [first];
    return outcomes.map((outcome) => ({ ...base, outcome }));
  }

  async #outcome(write: Write, serial: number, requestId: string): Promise<Answer["outcome"]> {
    const validateOnly = write.manner === "validate only";
    const deadline = performance.now() + patienceMs;
    for (;;) {
      try {
        const { revision } = await request(this.#clients, write, serial, { requestId, validateOnly });
        return { kind: validateOnly ? "validated" : "done", revision };
      } catch (error) {
        const refusal = refusalIn(error);
        if (refusal !== undefined && !passing.has(refusal.reason)) return { kind: "refused", ...refusal };
        if (write.manner === "at most once") return { kind: "unanswered" };
        if (performance.now() > deadline) throw error;
        await delay(100);
        this.#clients = this.#connect();
      }
    }
  }
}

/** What Steward says of a request; undefined: it is not Steward that speaks, the connection broke. */
function refusalIn(error: unknown): Pick<Refusal, "code" | "reason"> | undefined {
  if (!(error instanceof ConnectError)) throw error;
  if (error.details.length > 0) return readRefusal(error);
  if (error.code === Code.Internal || error.code === Code.InvalidArgument || error.code === Code.Unimplemented)
    return { code: Code[error.code] as Refusal["code"], reason: error.rawMessage };
  return undefined;
}

type Marks = { readonly requestId: string; readonly validateOnly: boolean };

/** The request that stands in a plan. */
function request(
  { registry, supervisor }: Clients,
  write: Write,
  serial: number,
  marks: Marks,
): Promise<{ readonly revision: bigint }> {
  const { name, others, team, set, prune } = write;
  const etag = write.manner === "with a stale etag" ? '"stale"' : "";
  const labels = { team, serial: `${serial}` };
  const sleeper = { command: ["sleep", "1000"], minReady: { nanos: 1 }, environment: { SERIAL: `${serial}` } };
  const specOf = (of: string) => (managedNames.has(of) ? managed(sleeper, { labels }) : external({ labels }));
  switch (write.kind) {
    case "create":
      return registry.create({ ...marks, serviceId: name, service: { spec: { ...specOf(name), ...shared(serial) } } });
    case "create failing": {
      const restartPolicy = { baseDelay: { nanos: 200_000_000 }, maxDelay: { seconds: 1n } };
      const failing = managed({ command: ["sh", "-c", "exit 3"], restartPolicy }, { labels });
      return registry.create({
        ...marks,
        serviceId: name,
        service: { spec: managedNames.has(name) ? failing : external({ labels }) },
      });
    }
    case "label":
      return registry.update({
        ...marks,
        service: { name, etag, spec: { labels } },
        updateMask: { paths: ["spec.labels"] },
      });
    case "change command":
      return registry.update({
        ...marks,
        service: { name, etag, spec: managed(sleeper) },
        updateMask: { paths: ["spec.managed.environment"] },
      });
    case "delete":
      return registry.delete({ ...marks, name, etag, force: prune });
    case "start":
    case "stop":
    case "restart":
      return supervisor[write.kind]({ ...marks, name, etag });
    case "apply":
      return registry.apply({ ...marks, setName: set, prune, services: ofSet(others, specOf) });
    case "apply with a fault": {
      // The last by name, so that the others are written before it is found out.
      const wrong = { name: "z", spec: external({ url: "ftp://z" }) };
      return registry.apply({ ...marks, setName: set, services: [...ofSet(others, specOf), wrong] });
    }
    case "apply large": {
      const info = { text: "x".repeat(60_000) };
      // A third of what fits into one message, or more than that.
      const copies = prune ? [1, 2, 3] : [1];
      const many = names
        .slice(0, prune ? names.length : 5)
        .flatMap((each) => copies.map((copy) => `large-${each}${copy}`));
      return registry.apply({ ...marks, setName: "large", services: ofSet(many, () => external({ labels, info })) });
    }
  }
}

/** A token that two services may not have: the second one is found out by the database, in the middle of its transaction. */
function shared(serial: number): { readonly apiToken?: string } {
  return serial % 3 === 0 ? { apiToken: "the-token-of-two-services" } : {};
}

function ofSet(services: readonly string[], specOf: (name: string) => MessageInitShape<typeof ServiceSpecSchema>) {
  return services.map((name) => ({ name, spec: specOf(name) }));
}
