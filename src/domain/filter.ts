import { AppError } from "./errors.ts";
import type { Event } from "./event.ts";
import { isManaged, type Service } from "./service.ts";

/** Whether a thing matches. The empty filter matches everything. Grammar: a subset of AIP-160. */
export type Predicate<T> = (thing: T) => boolean;

/** Fields: name, kind, admin, url, wish, state, ready, set_name, labels.KEY. */
export function serviceFilter(text: string): Predicate<Service> {
  return compile(text, ["name", "kind", "admin", "url", "wish", "state", "ready", "set_name"], ["labels"], readService);
}

/** Fields: service, service_uid, type, actor, node, request_id, revision. */
export function eventFilter(text: string): Predicate<Event> {
  return compile(text, ["service", "service_uid", "type", "actor", "node", "request_id", "revision"], [], readEvent);
}

type Field = readonly string[];

function readService(service: Service, [field, key]: Field): string | undefined {
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
    default:
      return key === undefined ? undefined : service.spec.labels[key];
  }
}

function readEvent(event: Event, [field]: Field): string | undefined {
  switch (field) {
    case "service":
      return event.service?.name;
    case "service_uid":
      return event.service?.uid;
    case "type":
      return event.body.type;
    case "actor":
      return event.actor;
    case "node":
      return event.node;
    case "request_id":
      return event.requestId;
    default:
      return String(event.revision);
  }
}

function compile<T>(
  text: string,
  fields: readonly string[],
  maps: readonly string[],
  read: (thing: T, field: Field) => string | undefined,
): Predicate<T> {
  const tokens = tokenize(text);
  if (tokens.length === 0) return () => true;
  const parser = new Parser(tokens, { fields, maps });
  const tree = parser.parse();
  return (thing) => evaluate(tree, (field) => read(thing, field));
}

type Tree =
  | { readonly kind: "and" | "or"; readonly parts: readonly Tree[] }
  | { readonly kind: "not"; readonly part: Tree }
  | { readonly kind: "compare"; readonly field: Field; readonly operator: string; readonly value: string };

function evaluate(tree: Tree, read: (field: Field) => string | undefined): boolean {
  switch (tree.kind) {
    case "and":
      return tree.parts.every((part) => evaluate(part, read));
    case "or":
      return tree.parts.some((part) => evaluate(part, read));
    case "not":
      return !evaluate(tree.part, read);
    case "compare":
      return compare(read(tree.field), tree.operator, tree.value);
  }
}

function compare(actual: string | undefined, operator: string, wanted: string): boolean {
  switch (operator) {
    case ":":
      return actual !== undefined && (wanted === "*" || actual.toLowerCase().includes(wanted.toLowerCase()));
    case "=":
      return actual !== undefined && equals(actual, wanted);
    case "!=":
      return actual === undefined || !equals(actual, wanted);
    default:
      return actual !== undefined && ordered(actual, operator, wanted);
  }
}

function equals(actual: string, wanted: string): boolean {
  const [one, other] = [actual.toLowerCase(), wanted.toLowerCase()];
  return other.endsWith("*") ? one.startsWith(other.slice(0, -1)) : one === other;
}

function ordered(actual: string, operator: string, wanted: string): boolean {
  const numbers = /^\d+$/.test(actual) && /^\d+$/.test(wanted);
  const [one, other] = numbers ? [BigInt(actual), BigInt(wanted)] : [actual, wanted];
  if (operator === "<") return one < other;
  if (operator === "<=") return one <= other;
  return operator === ">" ? one > other : one >= other;
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
    if (quoted !== undefined) tokens.push({ kind: "text", text: quoted.slice(1, -1).replaceAll(/\\(.)/g, "$1"), at });
    else if (sign !== undefined) tokens.push({ kind: "sign", text: sign, at });
    else tokens.push({ kind: "word", text: word ?? "", at });
    at += whole.length;
  }
  return tokens;
}

const deepest = 32;

class Parser {
  readonly #tokens: readonly Token[];
  readonly #known: { readonly fields: readonly string[]; readonly maps: readonly string[] };
  #next = 0;

  constructor(tokens: readonly Token[], known: { fields: readonly string[]; maps: readonly string[] }) {
    this.#tokens = tokens;
    this.#known = known;
  }

  parse(): Tree {
    const tree = this.#either(0);
    const rest = this.#tokens[this.#next];
    if (rest !== undefined) throw this.#wrong("expected AND, OR or the end");
    return tree;
  }

  #either(depth: number): Tree {
    if (depth > deepest) throw this.#wrong(`parentheses may be nested ${deepest} deep`);
    const parts = [this.#both(depth)];
    while (this.#takeWord("OR")) parts.push(this.#both(depth));
    const [only] = parts;
    return parts.length === 1 && only !== undefined ? only : { kind: "or", parts };
  }

  #both(depth: number): Tree {
    const parts = [this.#one(depth)];
    while (this.#takeWord("AND")) parts.push(this.#one(depth));
    const [only] = parts;
    return parts.length === 1 && only !== undefined ? only : { kind: "and", parts };
  }

  #one(depth: number): Tree {
    if (this.#takeWord("NOT")) return { kind: "not", part: this.#one(depth + 1) };
    if (!this.#takeSign("(")) return this.#comparison();
    const tree = this.#either(depth + 1);
    if (!this.#takeSign(")")) throw this.#wrong("expected )");
    return tree;
  }

  #comparison(): Tree {
    const field = this.#field();
    const operator = this.#tokens[this.#next];
    if (operator?.kind !== "sign" || "()".includes(operator.text))
      throw this.#wrong("expected =, !=, <, <=, >, >= or :");
    this.#next++;
    const value = this.#tokens[this.#next];
    if (value === undefined || value.kind === "sign") throw this.#wrong("expected a value");
    this.#next++;
    return { kind: "compare", field, operator: operator.text, value: value.text };
  }

  #field(): Field {
    const token = this.#tokens[this.#next];
    if (token?.kind !== "word") throw this.#wrong("expected a field");
    const [first = "", ...rest] = token.text.split(".");
    const isMap = this.#known.maps.includes(first) && rest.length > 0;
    if (!isMap && !this.#known.fields.includes(token.text)) {
      const allowed = [...this.#known.fields, ...this.#known.maps.map((map) => `${map}.KEY`)].join(", ");
      throw this.#wrong(`there is no field ${JSON.stringify(token.text)}; there are ${allowed}`);
    }
    this.#next++;
    return isMap ? [first, rest.join(".")] : [token.text];
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
