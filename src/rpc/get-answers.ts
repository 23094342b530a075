import { create } from "@bufbuild/protobuf";
import { GetResponseSchema } from "../../gen/steward/v1/service_registry_pb.ts";
import { may, type Principal } from "../domain/principal.ts";
import type { Service } from "../domain/service.ts";
import { serviceToProto } from "./convert-service.ts";
import { Shared } from "./handler.ts";

type Answer = Shared<typeof GetResponseSchema>;

/**
 * The answers to Get: each is made and encoded once for all who ask while nothing changes, as those do who ask again and again. One is forgotten
 * with the service that it is made of.
 */
export class GetAnswers {
  readonly #bare = new WeakMap<Service, Made>();
  readonly #withEnvironment = new WeakMap<Service, Made>();

  /** What this principal is told of the service. */
  of(principal: Principal, service: Service, revision: bigint): Answer {
    const environment = may(principal, "read:services:environment", service.name);
    const made = environment ? this.#withEnvironment : this.#bare;
    const known = made.get(service);
    if (known?.revision === revision) return known.answer;
    const shown = known?.answer.message.service ?? serviceToProto(service, { environment });
    const message = create(GetResponseSchema, { service: shown, revision });
    const answer = new Shared(GetResponseSchema, () => message);
    made.set(service, { revision, answer });
    return answer;
  }
}

interface Made {
  readonly revision: bigint;
  readonly answer: Answer;
}
