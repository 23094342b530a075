import { expect, test } from "vitest";
import { type Answer, brokenAnswers } from "./answers.ts";
import { Log, type LoggedEvent } from "./promises.ts";

const event = (revision: bigint, requestId: string): LoggedEvent => ({
  ...{ revision, index: 0, type: "service_updated", service: "a", serviceUid: "uid-a", generation: 1n, requestId },
  ...{ actor: "operator", node: "n", message: "", after: undefined, bytes: 0 },
});

const log = new Log([event(1n, "once"), event(2n, "twice"), event(3n, "twice")]);

const answer = (requestId: string, outcome: Answer["outcome"], mayChangeNothing = false): Answer => ({
  ...{ request: "a request", requestId, outcome, mayChangeNothing },
});
const done = (revision: bigint) => ({ kind: "done", revision }) as const;
const refused = (code: string) => ({ kind: "refused", code, reason: "SERVICE_EXISTS" }) as const;

test.each<[what: string, answers: Answer[]]>([
  ["what was done where it says", [answer("once", done(1n))]],
  ["the same answer again", [answer("once", done(1n)), answer("once", done(1n))]],
  ["what may change nothing and did not", [answer("none", done(3n), true)]],
  ["what was refused and is not there", [answer("none", refused("AlreadyExists"))]],
  ["what was only tried", [answer("none", { kind: "validated", revision: 0n })]],
  [
    "what was not answered, done or not",
    [answer("once", { kind: "unanswered" }), answer("none", { kind: "unanswered" })],
  ],
])("the log does not contradict %s", (_, answers) => {
  expect(brokenAnswers(log, answers)).toEqual([]);
});

test.each<[what: string, answers: Answer[], why: string]>([
  ["lost", [answer("none", done(3n))], "was acknowledged"],
  ["elsewhere", [answer("once", done(2n))], "was acknowledged at 2"],
  ["done twice", [answer("twice", done(2n))], "was done more than once"],
  ["answered differently", [answer("none", done(1n), true), answer("none", done(2n), true)], "was answered with 1, 2"],
  ["refused and done", [answer("once", refused("AlreadyExists"))], "was refused with SERVICE_EXISTS"],
  ["tried and done", [answer("once", { kind: "validated", revision: 0n })], "was only to be validated"],
  ["met by a bug", [answer("none", refused("Internal"))], "met a bug"],
])("the log contradicts what is %s", (_, answers, why) => {
  expect(brokenAnswers(log, answers).join()).toContain(why);
});
