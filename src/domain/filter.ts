import { AppError } from "./errors.ts";
import type { Event } from "./event.ts";
import { isManaged, type Service } from "./service.ts";

/** Whether a thing matches. The empty filter matches everything. Grammar: a subset of AIP-160. */
export type Predicate<T> = (thing: T) => boolean;

/** Fields: name, kind, admin, url, wish, state, ready, set_name, labels.KEY. */
export function serviceFilter(text: string): Predicate<Service> {
  return predicate(parseServiceFilter(text), readService);
}

/** The same filter for whoever else evaluates it; undefined: everything matches. Throws invalid_argument FILTER_INVALID. */
export function parseServiceFilter(text: string): ServiceFilter | undefined {
  return parseFilter(text, serviceFields, ["labels"]);
}

/** Fields: service, service_uid, type, actor, token_id, peer, node, request_id, revision. */
export function eventFilter(text: string): Predicate<Event> {
  return predicate(parseFilter(text, eventFields, []), readEvent);
}

/** A filter that was understood. What a comparison means is told by `compare`. */
export type Filter<F extends string> =
  | { readonly kind: "and" | "or"; readonly parts: readonly Filter<F>[] }
  | { readonly kind: "not"; readonly part: Filter<F> }
  | Comparison<F>;

export interface Comparison<F extends string> {
  readonly kind: "compare";
  readonly field: F;
  /** Of a map, which entry. */
  readonly key: string | undefined;
  readonly operator: Operator;
  readonly value: string;
}

export type Operator = (typeof operators)[number];

export type ServiceFilter = Filter<ServiceField>;

export type ServiceField = (typeof serviceFields)[number] | "labels";

type EventField = (typeof eventFields)[number];

const operators = ["=", "!=", ":", "<", "<=", ">", ">="] as const;

const serviceFields = ["name", "kind", "admin", "url", "wish", "state", "ready", "set_name"] as const;

const eventFields = [
  "service",
  "service_uid",
  "type",
  "actor",
  "token_id",
  "peer",
  "node",
  "request_id",
  "revision",
] as const;

function readService(service: Service, field: ServiceField, key: string | undefined): string | undefined {
  switch (field) {
    case "name":
      return service.name;
    case "kind":
      return isManaged(service) ? "managed" : "external";
    case "admin":
      return String(service.spec.admin);
    case "url":
      return service.status.url ?? service.spec.url;
    case "wish":
      return service.wish;
    case "state":
      return service.status.state;
    case "ready":
      return String(service.status.ready);
    case "set_name":
      return service.setName;
    case "labels":
      return key !== undefined && Object.hasOwn(service.spec.labels, key) ? service.spec.labels[key] : undefined;
  }
}

function readEvent(event: Event, field: EventField): string | undefined {
  switch (field) {
    case "service":
      return event.service?.name;
    case "service_uid":
      return event.service?.uid;
    case "type":
      return event.body.type;
    case "actor":
      return event.actor;
    case "token_id":
      return event.caller?.tokenId;
    case "peer":
      return event.caller?.peer;
    case "node":
      return event.node;
    case "request_id":
      return event.requestId;
    case "revision":
      return String(event.revision);
  }
}

function predicate<T, F extends string>(
  filter: Filter<F> | undefined,
  read: (thing: T, field: F, key: string | undefined) => string | undefined,
): Predicate<T> {
  if (filter === undefined) return () => true;
  return (thing) => evaluate(filter, (field, key) => read(thing, field, key));
}

function evaluate<F extends string>(
  filter: Filter<F>,
  read: (field: F, key: string | undefined) => string | undefined,
): boolean {
  switch (filter.kind) {
    case "and":
      return filter.parts.every((part) => evaluate(part, read));
    case "or":
      return filter.parts.some((part) => evaluate(part, read));
    case "not":
      return !evaluate(filter.part, read);
    case "compare":
      return compare(read(filter.field, filter.key), filter.operator, filter.value);
  }
}

/** What the database says of the same in SQL (store/service-filter.ts). What is not there only differs. */
function compare(actual: string | undefined, operator: Operator, wanted: string): boolean {
  if (actual === undefined) return operator === "!=";
  switch (operator) {
    case ":":
      return wanted === "*" || foldCase(actual).includes(foldCase(wanted));
    case "=":
      return equals(actual, wanted);
    case "!=":
      return !equals(actual, wanted);
    case "<":
    case "<=":
    case ">":
    case ">=":
      return ordered(actual, operator, wanted);
  }
}

function equals(actual: string, wanted: string): boolean {
  const [one, other] = [foldCase(actual), foldCase(wanted)];
  return other.endsWith("*") ? one.startsWith(other.slice(0, -1)) : one === other;
}

/** The case of A to Z does not matter. Of other letters it does: what is their case depends on language and version. */
export function foldCase(text: string): string {
  return text.replaceAll(/[A-Z]+/g, (letters) => letters.toLowerCase());
}

export function isWholeNumber(text: string): boolean {
  return /^[0-9]+$/.test(text);
}

function ordered(actual: string, operator: "<" | "<=" | ">" | ">=", wanted: string): boolean {
  const areNumbers = isWholeNumber(actual) && isWholeNumber(wanted);
  const order = areNumbers ? Number(BigInt(actual) - BigInt(wanted)) : byCodePoint(actual, wanted);
  if (operator === "<") return order < 0;
  if (operator === "<=") return order <= 0;
  return operator === ">" ? order > 0 : order >= 0;
}

/** As the bytes of UTF-8 are ordered, which UTF-16 is not. */
function byCodePoint(one: string, other: string): number {
  return Buffer.compare(Buffer.from(one), Buffer.from(other));
}

function parseFilter<F extends string, M extends string>(
  text: string,
  fields: readonly F[],
  maps: readonly M[],
): Filter<F | M> | undefined {
  const tokens = tokenize(text);
  return tokens.length === 0 ? undefined : new Parser(tokens, { fields, maps }).parse();
}

interface Token {
  readonly kind: "word" | "text" | "sign";
  readonly text: string;
  readonly at: number;
}

function tokenize(text: string): Token[] {
  const tokens: Token[] = [];
  const pattern = /\s*(?:("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(<=|>=|!=|[=<>:()])|([^\s=<>:()!"']+))/gy;
  let at = 0;
  while (at < text.trimEnd().length) {
    pattern.lastIndex = at;
    const match = pattern.exec(text);
    if (match === null) throw filterError(at, "this cannot be understood");
    const [whole, quoted, sign, word] = match;
    if (/\0|\p{Surrogate}/u.test(whole)) throw filterError(at, "no text has this character");
    if (quoted !== undefined) tokens.push({ kind: "text", text: quoted.slice(1, -1).replaceAll(/\\(.)/g, "$1"), at });
    else if (sign !== undefined) tokens.push({ kind: "sign", text: sign, at });
    else tokens.push({ kind: "word", text: word ?? "", at });
    at += whole.length;
  }
  return tokens;
}

const deepest = 32;

class Parser<F extends string, M extends string> {
  readonly #tokens: readonly Token[];
  readonly #known: { readonly fields: readonly F[]; readonly maps: readonly M[] };
  #next = 0;

  constructor(tokens: readonly Token[], known: { fields: readonly F[]; maps: readonly M[] }) {
    this.#tokens = tokens;
    this.#known = known;
  }

  parse(): Filter<F | M> {
    const tree = this.#either(0);
    const rest = this.#tokens[this.#next];
    if (rest !== undefined) throw this.#wrong("expected AND, OR or the end");
    return tree;
  }

  #either(depth: number): Filter<F | M> {
    if (depth > deepest) throw this.#wrong(`parentheses may be nested ${deepest} deep`);
    const parts = [this.#both(depth)];
    while (this.#takeWord("OR")) parts.push(this.#both(depth));
    const [only] = parts;
    return parts.length === 1 && only !== undefined ? only : { kind: "or", parts };
  }

  #both(depth: number): Filter<F | M> {
    const parts = [this.#one(depth)];
    while (this.#takeWord("AND")) parts.push(this.#one(depth));
    const [only] = parts;
    return parts.length === 1 && only !== undefined ? only : { kind: "and", parts };
  }

  #one(depth: number): Filter<F | M> {
    if (this.#takeWord("NOT")) return { kind: "not", part: this.#one(depth + 1) };
    if (!this.#takeSign("(")) return this.#comparison();
    const tree = this.#either(depth + 1);
    if (!this.#takeSign(")")) throw this.#wrong("expected )");
    return tree;
  }

  #comparison(): Filter<F | M> {
    const { field, key } = this.#field();
    const sign = this.#tokens[this.#next];
    const operator = sign?.kind === "sign" ? operators.find((each) => each === sign.text) : undefined;
    if (operator === undefined) throw this.#wrong("expected =, !=, <, <=, >, >= or :");
    this.#next++;
    const value = this.#tokens[this.#next];
    if (value === undefined || value.kind === "sign") throw this.#wrong("expected a value");
    this.#next++;
    return { kind: "compare", field, key, operator, value: value.text };
  }

  #field(): { field: F | M; key: string | undefined } {
    const token = this.#tokens[this.#next];
    if (token?.kind !== "word") throw this.#wrong("expected a field");
    const { fields, maps } = this.#known;
    const [first = "", ...rest] = token.text.split(".");
    const map = rest.length === 0 ? undefined : maps.find((each) => each === first);
    const field = map ?? fields.find((each) => each === token.text);
    if (field === undefined) {
      const allowed = [...fields, ...maps.map((each) => `${each}.KEY`)].join(", ");
      throw this.#wrong(`there is no field ${JSON.stringify(token.text)}; there are ${allowed}`);
    }
    this.#next++;
    return { field, key: map === undefined ? undefined : rest.join(".") };
  }

  #takeWord(word: string): boolean {
    const token = this.#tokens[this.#next];
    if (token?.kind !== "word" || token.text !== word) return false;
    this.#next++;
    return true;
  }

  #takeSign(sign: string): boolean {
    const token = this.#tokens[this.#next];
    if (token?.kind !== "sign" || token.text !== sign) return false;
    this.#next++;
    return true;
  }

  #wrong(problem: string): AppError {
    return filterError(this.#tokens[this.#next]?.at ?? -1, problem);
  }
}

function filterError(at: number, problem: string): AppError {
  const where = at < 0 ? "at the end" : `at character ${at + 1}`;
  const description = `${where}: ${problem}`;
  return new AppError("invalid_argument", "FILTER_INVALID", `filter: ${description}`, {
    violations: [{ field: "filter", description }],
  });
}
