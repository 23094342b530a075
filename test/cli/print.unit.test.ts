import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { RouteSchema } from "../../gen/steward/v1/route_pb.ts";
import {
  age,
  clockTime,
  paint,
  printDocument,
  printLine,
  printList,
  printMessage,
  printTable,
} from "../../src/cli/print.ts";
import { TestScreen } from "./screen.ts";

const route = create(RouteSchema, { service: "web", prefix: "/services/web/" });
const json = { service: "web", prefix: "/services/web/" };

test("a table has columns as wide as their widest cell, and nothing at the end of a line", () => {
  const screen = new TestScreen();

  printTable(
    screen,
    ["A", "LONG", "C"],
    [
      ["1234", "x", ""],
      ["1", "", "z"],
    ],
  );

  expect(screen.out).toBe("A     LONG  C\n1234  x\n1           z\n");
});

test("colours take no room in a table, and are used only where the screen has them", () => {
  const screen = new TestScreen({ colours: true });
  const green = paint(screen, "green", "ok");

  printTable(
    screen,
    ["A", "B"],
    [
      [green, "x"],
      ["long", "y"],
    ],
  );

  expect(green).toBe("\u001b[32mok\u001b[0m");
  expect(screen.out.split("\n")[1]).toBe(`${green}    x`);
  expect(paint(new TestScreen(), "green", "ok")).toBe("ok");
  expect(paint(screen, "green", "")).toBe("");
});

describe("messages", () => {
  test("are printed as JSON and YAML with the names of the API", () => {
    const [asJson, asYaml, list, line] = [new TestScreen(), new TestScreen(), new TestScreen(), new TestScreen()];

    printMessage(asJson, "json", RouteSchema, route);
    printMessage(asYaml, "yaml", RouteSchema, route);
    printList(list, "json", RouteSchema, [route, route]);
    printLine(line, RouteSchema, route);

    expect(JSON.parse(asJson.out)).toEqual(json);
    expect(parse(asYaml.out)).toEqual(json);
    expect(JSON.parse(list.out)).toEqual([json, json]);
    expect(line.out).toBe(`${JSON.stringify(json)}\n`);
  });

  test("of a stream are YAML documents of their own", () => {
    const screen = new TestScreen();

    printDocument(screen, RouteSchema, route);
    printDocument(screen, RouteSchema, route);

    expect(
      screen.out
        .split("---\n")
        .slice(1)
        .map((text) => parse(text)),
    ).toEqual([json, json]);
  });
});

test.each([
  [0, "0s"],
  [-5, "0s"],
  [119, "119s"],
  [120, "2m"],
  [7_199, "119m"],
  [7_200, "2h"],
  [172_800, "2d"],
])("an age of %i seconds is %s", (seconds, text) => {
  const now = new Date("2026-01-01T00:00:00Z");

  expect(age(timestampFromDate(new Date(now.getTime() - seconds * 1_000)), now)).toBe(text);
});

test("a time that is unknown is a dash", () => {
  expect([age(undefined), clockTime(undefined)]).toEqual(["-", "-"]);
  expect(clockTime(timestampFromDate(new Date(0)))).toBe("1970-01-01T00:00:00.000Z");
});
