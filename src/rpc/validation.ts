import { create, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { pathToString } from "@bufbuild/protobuf/reflect";
import { createValidator, type Validator, type Violation } from "@bufbuild/protovalidate";
import { RulesBroken } from "./errors.ts";

/** Checks requests against the protovalidate rules in their proto. Each rule is compiled once. */
export class Validation {
  readonly #validator: Validator = createValidator();

  /** Compiles the rules of a message now, so that the first call does not pay for it and a broken rule stops the start. Throws on one. */
  prepare(schema: DescMessage): void {
    const result = this.#validator.validate(schema, create(schema));
    if (result.kind === "error") throw result.error;
  }

  /** Throws RulesBroken (VALIDATION_FAILED) with every violation, named by proto field paths. */
  check<D extends DescMessage>(schema: D, message: MessageShape<D>): void {
    const result = this.#validator.validate(schema, message);
    if (result.kind === "valid") return;
    if (result.kind === "error") throw result.error;
    throw new RulesBroken(result.violations, result.violations.map(fieldViolation));
  }
}

function fieldViolation(violation: Violation): { field: string; description: string } {
  return { field: pathToString(violation.field), description: violation.message };
}
