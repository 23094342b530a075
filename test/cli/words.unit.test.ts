import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { EventType, EventTypeSchema } from "../../gen/steward/v1/event_pb.ts";
import { InstanceExitReason, InstanceExitSchema } from "../../gen/steward/v1/instance_pb.ts";
import { RouteSchema, RouteState } from "../../gen/steward/v1/route_pb.ts";
import { ServiceSchema, ServiceState, ServiceStateSchema } from "../../gen/steward/v1/service_pb.ts";
import { TokenState } from "../../gen/steward/v1/token_pb.ts";
import { eventWord, exitWord, routeWord, stateWord, tokenWord } from "../../src/cli/words.ts";
import { TestScreen } from "./screen.ts";

const plain = new TestScreen();
const inState = (state: ServiceState, ready = false) => create(ServiceSchema, { status: { state, ready } });

test("states, events, routes and tokens are named without the prefix of their enum", () => {
  expect(stateWord(plain, inState(ServiceState.CRASH_LOOP))).toBe("CRASH_LOOP");
  expect(eventWord(EventType.INSTANCE_EXITED)).toBe("instance_exited");
  expect(routeWord(create(RouteSchema, { state: RouteState.PROGRAMMED }))).toBe("PROGRAMMED");
  expect(routeWord(undefined)).toBe("-");
  expect(tokenWord(TokenState.REVOKED)).toBe("REVOKED");
});

test("every value has a word, also one that a newer server sends", () => {
  for (const { number } of ServiceStateSchema.values)
    expect(stateWord(plain, inState(number as ServiceState))).toMatch(/^[A-Z_]+$/);
  for (const { number } of EventTypeSchema.values) expect(eventWord(number as EventType)).toMatch(/^[a-z_]+$/);
  expect(stateWord(plain, inState(99 as ServiceState))).toBe("99");
});

test("a state has the colour of what it means", () => {
  const screen = new TestScreen({ colours: true });
  const colourOf = (state: ServiceState, ready = false) =>
    /^\u001b\[(\d+)m/.exec(stateWord(screen, inState(state, ready)))?.[1];

  expect(colourOf(ServiceState.RUNNING, true)).toBe("32");
  expect(colourOf(ServiceState.RUNNING)).toBe("33");
  expect(colourOf(ServiceState.FAILED)).toBe("31");
  expect(colourOf(ServiceState.STOPPED)).toBeUndefined();
});

test.each([
  [{ reason: InstanceExitReason.EXITED, code: 3 }, "code 3"],
  [{ reason: InstanceExitReason.EXITED, code: 0 }, "code 0"],
  [{ reason: InstanceExitReason.SIGNALED, signal: "SIGKILL" }, "SIGKILL"],
  [{ reason: InstanceExitReason.SPAWN_FAILED, message: "no such file" }, "could not start: no such file"],
  [{ reason: InstanceExitReason.LOST }, "unknown"],
])("an exit is told in words: %o", (exit, word) => {
  expect(exitWord(create(InstanceExitSchema, exit))).toBe(word);
});
